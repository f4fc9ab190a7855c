package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// keptName is the file of a snapshot that says of which machine it is. The driver's
// own files are beside it; it is written last.
const keptName = "machine.json"

// keptVersion is the version of that file.
const keptVersion = 1

// maxKept bounds it, in bytes.
const maxKept = 64 << 10

// Kept is what every driver notes in its snapshots about their machine. Drivers
// embed it and add what they need themselves.
type Kept struct {
	Version int `json:"version"`
	// ID tells this snapshot from all others; empty where a driver knows no differences.
	ID        string   `json:"id,omitempty"`
	Arch      string   `json:"arch"`
	CPUs      int      `json:"cpus"`
	MemoryMiB int64    `json:"memory_mib"`
	Drives    []string `json:"drives"` // in order; a * behind those that are read-only
	Network   bool     `json:"network,omitempty"`
}

// Keep describes the machine of a spec.
func Keep(spec Spec) Kept {
	k := Kept{Version: keptVersion, Arch: spec.Arch, CPUs: spec.CPUs, MemoryMiB: spec.MemoryMiB, Network: spec.Network}
	for _, d := range spec.Drives {
		name := d.ID
		if d.ReadOnly {
			name += "*"
		}
		k.Drives = append(k.Drives, name)
	}
	return k
}

// Fits tells why a spec is not of the machine that was kept.
func (k Kept) Fits(spec Spec) error {
	want := Keep(spec)
	switch {
	case k.Version != keptVersion:
		return fmt.Errorf("it has version %d, this smolvm knows version %d", k.Version, keptVersion)
	case k.Arch != want.Arch, k.CPUs != want.CPUs, k.MemoryMiB != want.MemoryMiB:
		return fmt.Errorf("it is of an %s machine with %d processors and %d MiB of memory", k.Arch, k.CPUs, k.MemoryMiB)
	case k.Network != want.Network:
		return fmt.Errorf("it is of a machine with a network card: %v", k.Network)
	case !slices.Equal(k.Drives, want.Drives):
		return fmt.Errorf("it is of a machine with the drives %q", k.Drives)
	}
	return nil
}

// Base tells why nobody knows what a machine's guest has changed since this snapshot;
// latest is the ID of the machine's latest one, empty where it has none.
func (k Kept) Base(latest string) error {
	switch {
	case latest == "":
		return errors.New("the machine has no snapshot since it booted, or the last one failed")
	case k.ID != latest:
		return errors.New("it is not the latest of this machine's run")
	}
	return nil
}

// WriteKept notes in a snapshot's folder of which machine it is; kept is a struct
// with a Kept in it.
func WriteKept(dir string, kept any) error {
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, keptName), append(text, '\n'), 0o600)
}

// ReadKept reads what WriteKept wrote.
func ReadKept(dir string, kept any) error {
	f, err := os.Open(filepath.Join(dir, keptName))
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKept+1))
	if err != nil {
		return err
	}
	if len(text) > maxKept {
		return fmt.Errorf("%s is longer than %d bytes", keptName, maxKept)
	}
	if err := json.Unmarshal(text, kept); err != nil {
		return fmt.Errorf("read %s: %w", keptName, err)
	}
	return nil
}

// RemoveKept removes from a snapshot's folder what was written before it failed:
// the driver's own files, by name, and what WriteKept wrote.
func RemoveKept(dir string, own ...string) error {
	var errs []error
	for _, name := range append(own, keptName) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
