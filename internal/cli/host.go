package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// probeMiB is the memory of the guest that shows whether KVM works.
const probeMiB = 256

// driver drives the VMM of this host.
func (a *App) driver() *qemu.Driver {
	info := a.Host()
	return qemu.New(a.runner(), qemu.Host{OS: info.OS, Arch: info.Arch, TSCKHz: info.TSCKHz})
}

// ableToRun refuses a VMM that cannot run the machine here, a host without it, and
// a state folder in which no sandbox can be made.
func (a *App) ableToRun(m machine) error {
	if err := a.groundsFor(m.arch).refuse(m.vmm); err != nil {
		return err
	}
	if m.vmm == config.QEMU {
		if _, err := a.driver().Binary(m.arch); err != nil {
			return err
		}
	}
	c, err := a.Config()
	if err != nil {
		return err
	}
	for _, folder := range []string{"sandboxes", "store", "images", "trust"} {
		if err := writable(filepath.Join(c.Home, folder)); err != nil {
			return err
		}
	}
	return nil
}

// soundVMM refuses a VMM that is too old, broken, or of another architecture.
func (a *App) soundVMM(ctx context.Context, m machine) error {
	if m.vmm == config.Firecracker {
		return a.soundFirecracker(ctx, m)
	}
	_, err := a.driver().Describe(ctx, m.arch)
	return err
}

// writable refuses a folder that cannot be written, or cannot be made.
func writable(folder string) error {
	at := folder
	for {
		err := unix.Access(at, unix.W_OK|unix.X_OK)
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(at) != at {
			at = filepath.Dir(at)
			continue
		}
		if err != nil {
			return fault.New(fault.Storage,
				"Check the folder's owner and permissions, or put the state elsewhere with SMOLVM_HOME.",
				"keep sandboxes and images in %s: %s cannot be written: %w", filepath.Dir(folder), at, err)
		}
		return nil
	}
}

// chooseAccel decides how the host runs a guest with the image's kernel, and
// gives the reason when that is by emulation.
func (a *App) chooseAccel(ctx context.Context, m machine, row manifest.Row, image record.Image) (vmm.Accel, string, error) {
	if m.vmm == config.Firecracker {
		return a.accelFirecracker(ctx, m, row, image)
	}
	g := a.groundsFor(m.arch)
	g.Unprobed = false
	if g.needsKVM() {
		c, err := a.Config()
		if err != nil {
			return "", "", err
		}
		binary, err := a.driver().Binary(m.arch)
		if err != nil {
			return "", "", err
		}
		if g.KVM, err = a.KVM(ctx, host.KVMOptions{
			Cache: filepath.Join(c.Home, "kvm.json"), VMM: binary, Kernel: row.Kernel.Image.Content.SHA256,
			Guest: func(ctx context.Context) error { return a.probeGuest(ctx, m, vmm.KVM, image) },
		}); err != nil {
			return "", "", err
		}
	}
	accel, reason := g.accelerator()
	return accel, reason, nil
}

// probeGuest boots the kernel with nothing but the guest agent, and returns when
// the agent has spoken.
func (a *App) probeGuest(ctx context.Context, m machine, accel vmm.Accel, image record.Image) error {
	done := event.Span(a.Progress(), a.Now, event.Boot, "a probe guest")
	defer done(0)
	dir, err := os.MkdirTemp("", "smolvm-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	agent, err := a.Build.Agent(m.arch)
	if err != nil {
		return err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := disk.Initrd(initrd, agent, image.Modules, nil); err != nil {
		return err
	}
	var driver vmm.Driver = a.driver()
	if m.vmm == config.Firecracker {
		driver = a.firecracker()
	}
	guest, err := driver.Start(ctx, vmm.Spec{
		Name: "probe", Arch: m.arch, Accel: accel, CPUs: 1, MemoryMiB: probeMiB,
		Kernel: image.Kernel, Initrd: initrd, CommandLine: image.CommandLine, RunDir: dir, Console: io.Discard,
	})
	if err != nil {
		return err
	}
	link, err := guest.Link(ctx)
	if err == nil {
		err = link.Close()
	}
	return errors.Join(err, guest.Kill())
}
