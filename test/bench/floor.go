//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
	"github.com/smolvm/smolvm/internal/wire"
)

// powerOff is the floor's whole guest.
const powerOff = `package main

import "syscall"

func main() { _ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) }
`

// floor boots what a sandbox boots, with a guest that does nothing.
type floor struct {
	driver *qemu.Driver
	spec   vmm.Spec
}

// newFloor makes one sandbox to learn its machine from, stops it, and builds
// the guest that powers off.
func (b *bench) newFloor(ctx context.Context) (*floor, error) {
	if _, err := b.must(ctx, "claude", "start", "-n", "floor", "--no-mount", "--no-attach"); err != nil {
		return nil, err
	}
	if _, err := b.must(ctx, "stop", "floor"); err != nil {
		return nil, err
	}
	book, err := record.Open(b.home)
	if err != nil {
		return nil, err
	}
	r, err := book.Read("floor")
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(b.home, "floor.cpio")
	if err := writeInitrd(ctx, initrd, r); err != nil {
		return nil, err
	}
	folder := book.Folder("floor")
	facts := host.Probe()
	spec := vmm.Spec{
		Name: "floor", Arch: r.Arch, Accel: vmm.Accel(r.Accel), CPUs: r.CPUs, MemoryMiB: r.MemoryMiB,
		Kernel: r.Image.Kernel, Initrd: initrd, CommandLine: r.Image.CommandLine, Network: r.Network,
		RunDir: b.home, Console: io.Discard,
	}
	for i, layer := range r.Image.Layers {
		spec.Drives = append(spec.Drives, vmm.Drive{ID: fmt.Sprint(wire.LayerRole, i), Path: layer.Path, ReadOnly: true})
	}
	spec.Drives = append(spec.Drives, vmm.Drive{ID: wire.ScratchRole, Path: folder.Scratch()},
		vmm.Drive{ID: wire.SeedRole, Path: folder.Seed(), ReadOnly: true})
	return &floor{driver: qemu.New(process.New(process.Options{Environ: os.Environ()}), qemu.Host{OS: runtime.GOOS, Arch: runtime.GOARCH, TSCKHz: facts.TSCKHz}), spec: spec}, nil
}

func writeInitrd(ctx context.Context, path string, r record.Record) error {
	folder, err := os.MkdirTemp("", "smolvm-floor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	source, program := filepath.Join(folder, "main.go"), filepath.Join(folder, "init")
	if err := os.WriteFile(source, []byte(powerOff), 0o600); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+r.Arch)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the guest that powers off: %w\n%s", err, out)
	}
	agent, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	return disk.Initrd(path, agent, r.Image.Modules, nil)
}

// boot starts the machine and waits for its end.
func (f *floor) boot(ctx context.Context) error {
	m, err := f.driver.Start(ctx, f.spec)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = m.Kill() })
	defer stop()
	return m.Wait()
}
