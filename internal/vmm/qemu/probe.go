package qemu

import (
	"context"
	"fmt"
	"io"

	"github.com/smolvm/smolvm/internal/vmm"
)

// Probe boots the kernel and initramfs of spec without drives and network and
// returns nil once the guest's own program has opened the link port: the proof
// that spec.Accel runs real guests here. Nothing of the machine is left.
func (d *Driver) Probe(ctx context.Context, spec vmm.Spec) error {
	spec.Drives, spec.Network, spec.CPUs = nil, false, 1
	if spec.Console == nil {
		spec.Console = io.Discard
	}
	m, err := d.Start(ctx, spec)
	if err != nil {
		return err
	}
	_, err = m.Link(ctx)
	if err == nil || ctx.Err() != nil {
		_ = m.Kill() // never fails
		return err
	}
	// The machine ended by itself: its own reason says more.
	if why := m.Wait(); why != nil {
		return why
	}
	return fmt.Errorf("the guest powered off: %w", err)
}
