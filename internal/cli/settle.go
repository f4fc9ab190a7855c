package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// distrust is why Firecracker is not used after all, found out when the image was here.
type distrust struct{ error }

// Unwrap gives the reason.
func (d distrust) Unwrap() error { return d.error }

// errNoFirecracker is why QEMU runs sandboxes on most computers.
var errNoFirecracker = errors.New("no Firecracker was found")

// settle asks a Firecracker whether it can run the machine, with so many processors
// where any were asked for. One that was not asked for gives way to QEMU.
func (a *App) settle(ctx context.Context, m *machine, cpus int) error {
	if m.vmm != config.Firecracker {
		return nil
	}
	err := a.Sound(ctx, *m)
	if err == nil && cpus > 0 {
		err = tooMany(firecracker.Processors(cpus))
	}
	return m.doubt(err)
}

// tooMany explains a number of processors that Firecracker does not give.
func tooMany(err error) error {
	if err == nil {
		return nil
	}
	return refuse("Give another number with --cpus, or use --backend qemu.", "%w", err)
}

// doubt puts QEMU in the place of a Firecracker that was not asked for, and keeps the
// sign that was seen. Other errors stay what they are.
func (m *machine) doubt(err error) error {
	if err == nil || m.vmm != config.Firecracker || m.named || errors.Is(err, context.Canceled) {
		return err
	}
	m.vmm, m.why = config.QEMU, err
	return nil
}

// ableInstead is Able, which says of a QEMU that is missing what it was to stand in for.
func (a *App) ableInstead(m machine) error {
	err := a.Able(m)
	if err != nil && m.why != nil && !errors.Is(m.why, errNoFirecracker) {
		return fmt.Errorf("%w; it would run in the place of Firecracker, which is not used: %w", err, m.why)
	}
	return err
}

// sayInstead says why QEMU runs a sandbox, unless the reason of its emulation does.
func (a *App) sayInstead(m machine, accel vmm.Accel, reason string) {
	if m.why == nil || errors.Is(m.why, errNoFirecracker) || accel == vmm.TCG && strings.Contains(m.why.Error(), reason) {
		return
	}
	a.notice("Firecracker is not used, QEMU runs the sandbox: %v. (smolvm doctor says what helps.)", m.why)
}

// again decides what follows after a sandbox did not come up so many times. A probe
// guest did come up on the same Firecracker, so it is tried once more; then QEMU
// takes its place, unless Firecracker was asked for or there is no QEMU.
func (a *App) again(m *machine, failed int, err error) bool {
	if code := fault.CodeOf(err); m.vmm != config.Firecracker || code != fault.Boot && code != fault.Host {
		return false
	}
	if failed == 1 {
		a.notice("Firecracker did not bring the sandbox up and is tried once more: %v", err)
		return true
	}
	qemu := *m
	if failed > 2 || qemu.doubt(err) != nil {
		return false
	}
	if unable := a.Able(qemu); unable != nil {
		a.notice("Firecracker did not bring the sandbox up again, and QEMU cannot run it instead: %v", unable)
		return false
	}
	*m = qemu
	a.notice("Firecracker did not bring the sandbox up again: QEMU runs it instead.")
	return true
}
