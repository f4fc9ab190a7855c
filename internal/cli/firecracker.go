package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// firecrackerFlag lets a command be told which Firecracker to use.
func (a *App) firecrackerFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.global.Firecracker, "firecracker", "",
		"`FILE` of the program firecracker (default SMOLVM_FIRECRACKER, else looked for in PATH and bin of the state folder)")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if a.global.Firecracker == "" {
			return nil
		}
		path, err := filepath.Abs(a.global.Firecracker)
		a.global.Firecracker = path
		return err
	}
}

// firecracker drives the Firecracker of this host.
func (a *App) firecracker() *firecracker.Driver {
	return firecracker.New(firecracker.Options{Runner: a.runner(), Random: a.Rand})
}

// driverOf drives the machine monitor that a sandbox was made for.
func (a *App) driverOf(r record.Record) (vmm.Driver, error) {
	switch r.VMM {
	case config.QEMU:
		return a.driver(), nil
	case config.Firecracker:
		if r.VMMProgram != nil {
			a.useProgram(*r.VMMProgram)
		}
		return a.firecracker(), nil
	}
	return nil, fault.New(fault.Host, "Use the smolvm that made the sandbox.", "there is no driver for %q", r.VMM)
}

// programOf is what a new sandbox's record keeps of its machine monitor.
func (a *App) programOf(ctx context.Context, m machine) (*record.Program, error) {
	if m.vmm != config.Firecracker {
		return nil, nil //nolint:nilnil // nothing is kept of QEMU
	}
	p, err := a.firecracker().Describe(ctx)
	return &record.Program{Path: p.Path, Version: p.Version, SHA256: p.SHA256, Asked: m.named}, err
}

// soundFirecracker refuses a Firecracker that is too old, a KVM that does not even run
// an instruction, and a system without cages or without taps for their network: all
// that is known before a download.
func (a *App) soundFirecracker(ctx context.Context, m machine) error {
	g := a.groundsFor(m.arch)
	if err := g.refuseFirecracker(); err != nil {
		return err
	}
	p, err := a.firecracker().Describe(ctx)
	if err != nil || p.Path == a.soundAt {
		return err
	}
	if g.KVM, err = a.KVM(ctx, host.KVMOptions{VMM: a.Self}); err != nil {
		return err
	}
	g.Unprobed = false
	if err := g.refuseFirecracker(); err != nil {
		return err
	}
	if err := cage.TryTap(ctx, a.runner()); err != nil {
		return err
	}
	a.soundAt = p.Path
	return nil
}

// accelFirecracker trusts KVM after a guest of the image's kernel came up under
// Firecracker; nothing else will do.
func (a *App) accelFirecracker(ctx context.Context, m machine, row manifest.Row, image record.Image) (vmm.Accel, string, error) {
	c, err := a.Config()
	if err != nil {
		return "", "", err
	}
	if err := a.soundFirecracker(ctx, m); err != nil {
		return "", "", distrust{err}
	}
	binary, err := a.firecracker().Binary()
	if err != nil {
		return "", "", err
	}
	g := a.groundsFor(m.arch)
	g.Unprobed = false
	if g.KVM, err = a.KVM(ctx, host.KVMOptions{
		Cache: filepath.Join(c.Home, "kvm-firecracker.json"), VMM: binary, Kernel: row.Kernel.Image.Content.SHA256,
		Guest: func(ctx context.Context) error { return a.probeGuest(ctx, m, vmm.KVM, image) },
	}); err != nil {
		return "", "", err
	}
	if err := g.refuseFirecracker(); err != nil {
		return "", "", distrust{err}
	}
	return vmm.KVM, "", nil
}
