package cli

import (
	"context"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/vmm"
)

// restart is a stopped sandbox that starts again. One that was made for Firecracker
// is run by it where that is possible now, whatever ran it last.
type restart struct {
	app     *App
	boxes   sandboxes
	sandbox sandbox.Status
	options startOptions
	machine machine
}

func (r *restart) run(ctx context.Context) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.app.ableInstead(r.machine); err != nil {
		return err
	}
	if err := r.app.Intact(ctx, r.sandbox.Image); err != nil {
		return err
	}
	defer r.app.AskNewer(ctx, r.sandbox.Image)()
	for failed := 1; ; failed++ {
		if err := r.rehost(ctx); err != nil {
			return err
		}
		err := r.app.startGiving(ctx, r.boxes, r.sandbox, r.options)
		if err == nil || !r.app.again(&r.machine, failed, err) {
			return err
		}
	}
}

// settle decides what runs the sandbox.
func (r *restart) settle(ctx context.Context) error {
	s := r.sandbox
	r.machine = machine{arch: s.Arch, vmm: s.VMM}
	if s.VMMProgram == nil {
		return nil
	}
	r.machine.vmm, r.machine.named = config.Firecracker, s.VMMProgram.Asked
	r.app.useProgram(*s.VMMProgram)
	return r.app.settle(ctx, &r.machine, s.CPUs)
}

// useProgram takes the Firecracker that a sandbox was made with, where it still is.
func (a *App) useProgram(p record.Program) {
	if process.Runnable(p.Path) {
		a.global.Firecracker = p.Path
	}
}

// rehost writes what runs the sandbox into its record, where that is something new.
func (r *restart) rehost(ctx context.Context) error {
	made := r.sandbox.VMMProgram
	if made == nil {
		return nil
	}
	next := sandbox.Host{VMM: r.machine.vmm, Accel: vmm.KVM, Program: made}
	if r.machine.vmm == config.Firecracker {
		program, err := r.app.Program(ctx, r.machine)
		if err != nil {
			return err
		}
		r.sayChanged(*made, *program)
		next.Program = program
	} else {
		accel, reason, err := r.app.Accel(ctx, r.machine, kernelRow(r.sandbox.Image), r.sandbox.Image)
		if err != nil {
			return err
		}
		r.app.sayInstead(r.machine, accel, reason)
		if accel == vmm.TCG {
			r.app.notice("The sandbox is emulated and therefore slow: %s.", reason)
		}
		next.Accel = accel
	}
	if now := r.sandbox; now.VMM == next.VMM && now.Accel == string(next.Accel) && *made == *next.Program {
		return nil
	}
	var err error
	r.sandbox.Record, err = r.boxes.Rehost(r.sandbox.Name, next)
	return err
}

// kernelRow is what is known of a sandbox's kernel: enough to keep KVM's verdict by.
func kernelRow(image record.Image) manifest.Row {
	var row manifest.Row
	row.Kernel.Image.Content.SHA256 = "of " + image.KernelVersion
	return row
}

// sayChanged says that a program is not the one that the sandbox ran with before.
func (r *restart) sayChanged(was, is record.Program) {
	if was.SHA256 != is.SHA256 {
		r.app.notice("Firecracker is another one than before: version %s (%s, SHA-256 %.12s), which was %s (%s, SHA-256 %.12s).",
			is.Version, is.Path, is.SHA256, was.Version, was.Path, was.SHA256)
	}
}
