package qemu

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

var (
	linuxAMD = Host{OS: "linux", Arch: "amd64", TSCKHz: 2596095}
	linuxARM = Host{OS: "linux", Arch: "arm64"}
	macARM   = Host{OS: "darwin", Arch: "arm64"}
	macAMD   = Host{OS: "darwin", Arch: "amd64"}
)

func spec(arch string, accel vmm.Accel) vmm.Spec {
	return vmm.Spec{
		Name: "box", Arch: arch, Accel: accel, CPUs: 2, MemoryMiB: 1024, Kernel: "/k", Initrd: "/i",
		CommandLine: "quiet smolvm.mode=run", Console: io.Discard,
	}
}

func TestMachineForHost(t *testing.T) {
	noTSC := Host{OS: "linux", Arch: "amd64"}
	for _, c := range []struct {
		name           string
		arch           string
		accel          vmm.Accel
		host           Host
		tool           process.Tool
		machine        string // prefix
		cpu, bus, line string // line: part of the kernel command line
		sandbox        bool
	}{
		{"emulated", "amd64", vmm.TCG, linuxAMD, process.QEMUx86, "microvm,", "max", "device", "tsc_early_khz=2596095 lpj=25960950", true},
		{"emulated, clock unknown", "amd64", vmm.TCG, noTSC, process.QEMUx86, "q35,", "max", "pci", "console=ttyS0", true},
		{"emulated, foreign", "amd64", vmm.TCG, linuxARM, process.QEMUx86, "q35,", "max", "pci", "console=ttyS0", true},
		{"KVM", "amd64", vmm.KVM, linuxAMD, process.QEMUx86, "microvm,", "host", "device", "reboot=t", true},
		{"Intel Mac", "amd64", vmm.HVF, macAMD, process.QEMUx86, "q35,", "host", "pci", "console=ttyS0", false},
		{"arm emulated", "arm64", vmm.TCG, linuxAMD, process.QEMUArm, "virt,", "max,pauth-impdef=on", "device", "console=ttyAMA0", true},
		{"arm KVM", "arm64", vmm.KVM, linuxARM, process.QEMUArm, "virt,", "host", "device", "console=ttyAMA0", true},
		{"Apple silicon", "arm64", vmm.HVF, macARM, process.QEMUArm, "virt,", "host", "device", "console=ttyAMA0", false},
	} {
		p, err := newPlan(spec(c.arch, c.accel), c.host)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.tool != c.tool || !strings.HasPrefix(p.machine, c.machine) || p.cpu != c.cpu || p.bus != c.bus || p.sandbox != c.sandbox {
			t.Errorf("%s: planned %s -M %s -cpu %s, virtio-*-%s, sandbox %v", c.name, p.tool, p.machine, p.cpu, p.bus, p.sandbox)
		}
		args := p.arguments()
		line := args[slices.Index(args, "-append")+1]
		if !strings.Contains(line, c.line) || !strings.HasSuffix(line, " quiet smolvm.mode=run") || !strings.Contains(line, "panic=-1") {
			t.Errorf("%s: kernel command line %q", c.name, line)
		}
		if slices.Contains(args, "-sandbox") != c.sandbox {
			t.Errorf("%s: arguments %q", c.name, args)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	change := func(f func(*vmm.Spec)) vmm.Spec {
		s := spec("amd64", vmm.TCG)
		f(&s)
		return s
	}
	drive := func(ids ...string) vmm.Spec {
		return change(func(s *vmm.Spec) {
			for _, id := range ids {
				s.Drives = append(s.Drives, vmm.Drive{ID: id, Path: "/d"})
			}
		})
	}
	for name, s := range map[string]vmm.Spec{
		"unknown architecture": change(func(s *vmm.Spec) { s.Arch = "riscv64" }),
		"foreign KVM guest":    spec("arm64", vmm.KVM),
		"no processor":         change(func(s *vmm.Spec) { s.CPUs = 0 }),
		"no memory":            change(func(s *vmm.Spec) { s.MemoryMiB = 0 }),
		"no console":           change(func(s *vmm.Spec) { s.Console = nil }),
		"noting changes":       change(func(s *vmm.Spec) { s.Track = true }),
		"twin drives":          drive("seed", "seed"),
		"injected option":      drive("x,readonly=off"),
		"empty name":           drive(""),
		"long name":            drive(strings.Repeat("x", 21)),
	} {
		if _, err := newPlan(s, linuxAMD); err == nil || fault.CodeOf(err) == fault.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDrives renders names that would break an option list.
func TestDrives(t *testing.T) {
	s := spec("amd64", vmm.TCG)
	s.Drives = []vmm.Drive{
		{ID: "layer0", Path: `/home/a,b "c"/é.ext4`, ReadOnly: true},
		{ID: "scratch", Path: "/s"},
	}
	p, err := newPlan(s, linuxAMD)
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Join(p.arguments(), "\n")
	for _, want := range []string{
		`{"driver":"raw","file":{"driver":"file","filename":"/home/a,b \"c\"/é.ext4","read-only":true},"node-name":"layer0","read-only":true}`,
		`{"detect-zeroes":"unmap","discard":"unmap","driver":"raw","file":{"driver":"file","filename":"/s","read-only":false},"node-name":"scratch","read-only":false}`,
		"virtio-blk-device,id=dev-layer0,drive=layer0,serial=layer0",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("arguments lack %s:\n%s", want, args)
		}
	}
	if strings.Contains(args, "-netdev") {
		t.Error("a network card nobody asked for")
	}
}

func TestWorkAround(t *testing.T) {
	p, _ := newPlan(spec("amd64", vmm.KVM), linuxAMD)
	if !p.workAround("error: failed to set MSR 0x10a to 0x8") || p.cpu != "host,arch-capabilities=off" {
		t.Errorf("MSR: -cpu %s", p.cpu)
	}
	if p.workAround("error: failed to set MSR 0x10a to 0x8") {
		t.Error("the same complaint was worked around twice")
	}
	if !p.workAround("-sandbox support is not enabled in this QEMU binary") || p.sandbox {
		t.Error("a QEMU without seccomp")
	}
	if p.workAround("sandbox") || p.workAround("disk is locked") {
		t.Error("nothing was left to try")
	}
}
