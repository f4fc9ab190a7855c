package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/vmm"
)

// TestBackends holds the order of VMMs and accelerators, and what each is refused for.
func TestBackends(t *testing.T) {
	useless := host.Verdict{Reason: "/dev/kvm opens but runs no guest"}
	kvm := host.Verdict{Usable: true}
	none := errors.New("firecracker is not installed")
	for _, c := range []struct {
		name, os, guest string
		kvm             host.Verdict
		firecracker     error
		wanted          string
		vmm             string
		accel           vmm.Accel
		reason, refused string // parts of them
	}{
		{"all there", "linux", "amd64", kvm, nil, "", "firecracker", vmm.KVM, "", ""},
		{"all there, QEMU wanted", "linux", "amd64", kvm, nil, "qemu", "qemu", vmm.KVM, "", ""},
		{"no Firecracker", "linux", "amd64", kvm, none, "", "qemu", vmm.KVM, "", ""},
		{"no Firecracker, wanted", "linux", "amd64", kvm, none, "firecracker", "firecracker", vmm.KVM, "", "not installed"},
		{"useless KVM", "linux", "amd64", useless, nil, "", "qemu", vmm.TCG, "runs no guest", ""},
		{"useless KVM, Firecracker wanted", "linux", "amd64", useless, nil, "firecracker", "firecracker", vmm.TCG, "runs no guest", "needs KVM: /dev/kvm opens but runs no guest"},
		{"foreign", "linux", "arm64", kvm, nil, "", "qemu", vmm.TCG, "this computer is amd64, the sandbox arm64", ""},
		{"foreign, Firecracker wanted", "linux", "arm64", kvm, nil, "firecracker", "firecracker", vmm.TCG, "sandbox arm64", "own architecture only"},
		{"mac", "darwin", "amd64", host.Verdict{}, nil, "", "qemu", vmm.HVF, "", ""},
		{"mac, Firecracker wanted", "darwin", "amd64", host.Verdict{}, nil, "firecracker", "firecracker", vmm.HVF, "", "Linux only"},
		{"mac, foreign", "darwin", "arm64", host.Verdict{}, nil, "", "qemu", vmm.TCG, "sandbox arm64", ""},
	} {
		// Before anything is known of KVM, Firecracker is to be looked at where it is.
		early := grounds{OS: c.os, Arch: "amd64", Guest: c.guest, Unprobed: true, Firecracker: c.firecracker}
		if got, there := early.fitting(""), c.os == "linux" && c.guest == "amd64" && c.firecracker == nil; (got == "firecracker") != there {
			t.Errorf("%s: %s is looked at", c.name, got)
		}
		g := grounds{OS: c.os, Arch: "amd64", Guest: c.guest, KVM: c.kvm, Firecracker: c.firecracker}
		name := g.fitting(c.wanted)
		accel, reason := g.accelerator()
		if name != c.vmm || accel != c.accel || !strings.Contains(reason, c.reason) || (reason == "") != (c.reason == "") {
			t.Errorf("%s: %s, %s, %q", c.name, name, accel, reason)
		}
		err := g.refuse(name)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: refused: %v", c.name, err)
		}
		if err != nil && !errors.Is(err, none) && !strings.Contains(fault.HintOf(err), "--backend qemu") {
			t.Errorf("%s: the hint names no VMM that can: %q", c.name, fault.HintOf(err))
		}
	}
}
