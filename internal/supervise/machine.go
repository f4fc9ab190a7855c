package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// spec says what to start: the record's machine, with what the order changes.
// It begins the console log.
func (s *supervisor) spec(runDir string) (_ vmm.Spec, err error) {
	mode, extra, readOnly := s.rec.Mode, s.rec.Extra, s.rec.ExtraReadOnly
	if s.order.Mode != "" {
		mode, extra, readOnly = s.order.Mode, s.order.Extra, false
	}
	drives := drivesOf(s.rec.Image.Layers, s.folder)
	if extra != "" {
		drives = append(drives, vmm.Drive{ID: wire.ExtraRole, Path: extra, ReadOnly: readOnly})
	}
	if err := present(s.rec.Image); err != nil {
		return vmm.Spec{}, err
	}
	if s.console, err = openConsole(s.folder.Console()); err != nil {
		return vmm.Spec{}, fault.New(fault.Storage, "", "%w", err)
	}
	return vmm.Spec{
		Name: s.Name, Arch: s.rec.Arch, Accel: vmm.Accel(s.rec.Accel), CPUs: s.rec.CPUs, MemoryMiB: s.rec.MemoryMiB,
		Kernel: s.rec.Image.Kernel, Initrd: s.folder.Initrd(),
		CommandLine: commandLine(s.rec, mode, drives) + s.mounts.option(),
		Drives:      drives, Network: s.rec.Network && !s.order.NoNet, RunDir: runDir, Console: io.MultiWriter(s.console, s.troubles),
	}, nil
}

// confinement is how the machine's monitor is locked up, and tells the user of one that
// could not be.
func (s *supervisor) confinement() string {
	m, ok := s.machine.(vmm.Confined)
	if !ok {
		return ""
	}
	caged, why := m.Confinement()
	if caged {
		return record.Caged
	}
	if why != nil {
		s.starter.event(event.Event{Time: s.Now(), Kind: event.Notice, Text: clipLine(uncaged(why))})
	}
	return record.Uncaged
}

// uncaged is one line about a monitor without a cage, with what would give it one.
func uncaged(why error) string {
	text := plain(fmt.Sprintf("The virtual machine runs without a cage around it: %v.", why))
	if hint := fault.HintOf(why); hint != "" {
		text += " " + hint
	}
	return strings.ReplaceAll(text, "\n", " ")
}

// shared are the host's folders of this start.
func (s *supervisor) shared() []record.Mount {
	if s.order.Mode != "" || s.rec.Mode != wire.ModeRun {
		return nil
	}
	return s.rec.Mounts
}

// drivesOf are the drives of every sandbox, in the order the guest counts them.
func drivesOf(layers []record.Layer, folder record.Folder) []vmm.Drive {
	var drives []vmm.Drive
	for i, l := range layers {
		drives = append(drives, vmm.Drive{ID: wire.LayerRole + strconv.Itoa(i), Path: l.Path, ReadOnly: true})
	}
	return append(drives,
		vmm.Drive{ID: wire.ScratchRole, Path: folder.Scratch()},
		vmm.Drive{ID: wire.SeedRole, Path: folder.Seed(), ReadOnly: true})
}

// commandLine appends to the image's own what the guest agent reads.
func commandLine(rec record.Record, mode wire.Mode, drives []vmm.Drive) string {
	roles := make([]string, len(drives))
	for i, d := range drives {
		roles[i] = d.ID
	}
	line := fmt.Sprintf("%s %s=%s %s=%s", rec.Image.CommandLine, wire.OptMode, mode, wire.OptDrives, strings.Join(roles, ","))
	if mode == wire.ModeRun {
		line += fmt.Sprintf(" %s=%s", wire.OptHostname, record.Hostname(rec.Name))
	}
	if rec.Generation > 0 {
		line += fmt.Sprintf(" %s=%d", wire.OptGeneration, rec.Generation)
	}
	return strings.TrimSpace(line)
}

// present checks that the files of the image are still in the cache.
func present(image record.Image) error {
	paths := []string{image.Kernel}
	if image.Modules != "" {
		paths = append(paths, image.Modules)
	}
	for _, l := range image.Layers {
		paths = append(paths, l.Path)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			if err == nil {
				err = errors.New("not a regular file")
			}
			return fault.New(fault.NotFound, "Pull the image again with smolvm image pull.",
				"a file of its image is missing: %s: %w", path, err)
		}
	}
	return nil
}

// sshConfig reads the sandbox's keys.
func sshConfig(folder record.Folder) (sshx.Config, error) {
	client, err := os.ReadFile(folder.ClientKey())
	if err == nil {
		var host []byte
		if host, err = os.ReadFile(folder.HostKeyPublic()); err == nil {
			return sshx.Config{User: wire.AgentUser, ClientKey: string(client), HostKey: string(host)}, nil
		}
	}
	return sshx.Config{}, fault.New(fault.Storage, "Delete the sandbox and start a new one.", "read its SSH keys: %w", err)
}
