package cli

import (
	"fmt"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/vmm"
)

// grounds are the facts on which a VMM and its accelerator are chosen.
type grounds struct {
	OS, Arch    string // of this computer
	Guest       string // architecture of the sandbox
	KVM         host.Verdict
	Unprobed    bool  // nothing is known of KVM yet
	Firecracker error // why it cannot be used; nil: it can
}

// fitting is the VMM for a sandbox: the one that is wanted, else Firecracker where
// it can run, else QEMU, which runs everywhere.
func (g grounds) fitting(wanted string) string {
	switch {
	case wanted != "":
		return wanted
	case g.refuseFirecracker() == nil:
		return config.Firecracker
	}
	return config.QEMU
}

// refuse tells what the VMM cannot do here, and names the one that can.
func (g grounds) refuse(name string) error {
	if name == config.Firecracker {
		return g.refuseFirecracker()
	}
	return nil
}

func (g grounds) refuseFirecracker() error {
	const use = "Use --backend qemu, which "
	switch {
	case g.OS != "linux":
		return fault.New(fault.Usage, use+"runs there.", "backend firecracker runs on Linux only")
	case g.Guest != g.Arch:
		return fault.New(fault.Usage, use+"emulates "+g.Guest+".",
			"backend firecracker runs sandboxes of this computer's own architecture only: it is %s, not %s", g.Arch, g.Guest)
	case g.Firecracker != nil:
		return g.Firecracker
	case !g.KVM.Usable && !g.Unprobed:
		return fault.New(fault.Host, use+"emulates where KVM does not work.", "backend firecracker needs KVM: %s", g.KVM.Reason)
	}
	return nil
}

// accelerator is how QEMU runs the sandbox, and the reason where that is slow.
func (g grounds) accelerator() (vmm.Accel, string) {
	switch {
	case g.Guest != g.Arch:
		return vmm.TCG, fmt.Sprintf("this computer is %s, the sandbox %s", g.Arch, g.Guest)
	case g.OS == "darwin":
		return vmm.HVF, ""
	case g.KVM.Usable:
		return vmm.KVM, ""
	}
	return vmm.TCG, g.KVM.Reason
}

// needsKVM tells whether how the sandbox runs depends on KVM.
func (g grounds) needsKVM() bool { return g.Guest == g.Arch && g.OS == "linux" }

// groundsFor are the facts about this computer for a sandbox of an architecture.
// What is known of KVM is left to the caller: it may take a guest to know.
func (a *App) groundsFor(guest string) grounds {
	info := a.Host()
	if guest == "" {
		guest = info.Arch
	}
	g := grounds{OS: info.OS, Arch: info.Arch, Guest: guest, Unprobed: true}
	if info.OS == "linux" {
		_, g.Firecracker = a.firecracker().Binary()
	}
	return g
}

// chooseMachine decides the VMM and looks at the host.
func (a *App) chooseMachine(arch, backend string) (machine, error) {
	c, err := a.Config()
	if err != nil {
		return machine{}, err
	}
	if backend == "" {
		backend = c.Backend
	}
	if backend, err = config.ParseBackend(backend); err != nil {
		return machine{}, err
	}
	g, info := a.groundsFor(arch), a.Host()
	m := machine{arch: g.Guest, vmm: g.fitting(backend), named: backend != "", cpus: info.CPUs, memoryMiB: info.MemoryMiB}
	if !m.named && g.OS == "linux" && g.Guest == g.Arch {
		m.why = g.Firecracker
		if m.why != nil && a.global.Firecracker == "" && c.Firecracker == "" {
			m.why = errNoFirecracker
		}
	}
	return m, nil
}
