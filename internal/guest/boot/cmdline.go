//go:build linux

package boot

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// maxRoles bounds the list of drives; virtio-mmio machines have 32 slots at most.
const maxRoles = 32

// Options is what the kernel command line tells the agent.
type Options struct {
	Mode     wire.Mode
	Drives   []string  // roles in the VMM's order
	Epoch    time.Time // zero when not given
	Mounts   bool      // the host has mounts, which have to be there before anything runs
	Hostname string    // empty: the seed's
	Vsock    string    // the boot's token where the guest link goes by vsock
	// Generation of the overlay's upper directory.
	Generation int
}

// ParseCommandLine reads the agent's options out of a kernel command line. A
// value that makes no sense is an error: the host wrote it.
func ParseCommandLine(line string) (Options, error) {
	opts := Options{Mode: wire.ModeRun}
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case wire.OptMode:
			opts.Mode, err = parseMode(value)
		case wire.OptDrives:
			opts.Drives, err = parseRoles(value)
		case wire.OptMounts:
			opts.Mounts = value != "0"
		case wire.OptEpoch:
			opts.Epoch, err = parseEpoch(value)
		case wire.OptHostname:
			opts.Hostname = value
		case wire.OptVsock:
			opts.Vsock = value
		case wire.OptGeneration:
			opts.Generation, err = parseGeneration(value)
		}
		if err != nil {
			return Options{}, fmt.Errorf("kernel command line: %w", err)
		}
	}
	return opts, nil
}

func parseMode(value string) (wire.Mode, error) {
	mode := wire.Mode(value)
	switch mode {
	case wire.ModeRun, wire.ModeBuild, wire.ModeBootstrap, wire.ModePack:
		return mode, nil
	}
	return "", fmt.Errorf("%s=%q is not a mode", wire.OptMode, value)
}

func parseRoles(value string) ([]string, error) {
	roles := strings.Split(value, ",")
	if len(roles) > maxRoles {
		return nil, fmt.Errorf("%s names %d drives, %d at most", wire.OptDrives, len(roles), maxRoles)
	}
	for i, role := range roles {
		if !validRole(role) || slices.Contains(roles[:i], role) {
			return nil, fmt.Errorf("%s: bad or repeated role %q", wire.OptDrives, role)
		}
	}
	return roles, nil
}

func validRole(role string) bool {
	switch role {
	case wire.ScratchRole, wire.SeedRole, wire.ExtraRole:
		return true
	}
	place, ok := strings.CutPrefix(role, wire.LayerRole)
	if !ok {
		return false
	}
	n, err := strconv.Atoi(place)
	return err == nil && n >= 0 && n < maxRoles && strconv.Itoa(n) == place
}

func parseEpoch(value string) (time.Time, error) {
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || seconds < 0 || seconds > 1<<33 {
		return time.Time{}, fmt.Errorf("%s=%q is not a time in seconds", wire.OptEpoch, value)
	}
	return time.Unix(seconds, 0), nil
}

func parseGeneration(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q is not a number", wire.OptGeneration, value)
	}
	return n, nil
}

// Layers returns the roles of the layers from the bottom up.
func (o Options) Layers() []string {
	var layers []string
	for i := range maxRoles {
		role := wire.LayerRole + strconv.Itoa(i)
		if !slices.Contains(o.Drives, role) {
			break
		}
		layers = append(layers, role)
	}
	return layers
}

// Has reports whether the machine has a drive of that role.
func (o Options) Has(role string) bool { return slices.Contains(o.Drives, role) }
