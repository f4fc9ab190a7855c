package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

// little is the memory in MiB below which a sandbox of the usual 2 GiB makes a
// computer swap.
const little = 2048

// slowBoot is how long a guest may take to come up before waiting becomes the
// main part of a start; emulated ones take 2 to 4 s on the machines measured.
const slowBoot = 8 * time.Second

func computer(f Facts) Check {
	c := Check{Name: "computer", State: OK, Found: fmt.Sprintf("%s on %s, %d processors", f.Host.OS, f.Host.Arch, f.Host.CPUs)}
	if f.Host.MemoryMiB > 0 {
		c.Found += fmt.Sprintf(", %s of memory", mebibytes(f.Host.MemoryMiB))
	}
	free := f.Survey.AvailableMiB
	if free > 0 {
		c.Found += fmt.Sprintf(", %s available", mebibytes(free))
	}
	switch {
	case f.Host.OS != "linux" && f.Host.OS != "darwin", f.Host.Arch != "amd64" && f.Host.Arch != "arm64":
		c.State, c.Means = Unusable, "there are no sandboxes for it"
		c.Fix = "Use Linux or macOS on amd64 or arm64."
	case free > 0 && free < little:
		c.State, c.Means = Degraded, "a sandbox of the usual 2 GiB would make it swap"
		c.Fix = "End other programs, or start sandboxes with --memory 1G."
	}
	return c
}

// surroundings never speak against a sandbox by themselves: the other checks
// have tried what they might break.
func surroundings(f Facts) Check {
	c := Check{Name: "surroundings", State: OK, Found: "not virtual, not in a container, as far as can be seen"}
	var inside []string
	if f.Survey.Hypervisor {
		inside = append(inside, strings.TrimSpace("a virtual machine "+parenthesis(f.Survey.Product)))
	}
	if f.Survey.Container != "" {
		inside = append(inside, "a container of "+f.Survey.Container)
	}
	if len(inside) > 0 {
		c.Found = "this is " + strings.Join(inside, " and ")
		c.Means = "virtualization has to be passed on to it by what is outside"
	}
	return c
}

func backend(f Facts) Check {
	if f.BackendError != nil {
		return failed("backend", Unusable, f.BackendError, "no sandbox can start")
	}
	return Check{Name: "backend", State: OK, Found: f.Backend, Fix: f.BackendFix}
}

func emulator(f Facts) Check {
	if f.EmulatorError != nil && f.onFirecracker() {
		return failed("qemu", Degraded, f.EmulatorError, "sandboxes run on Firecracker; images cannot be built, nor those of another architecture run")
	}
	if f.EmulatorError != nil {
		return failed("qemu", Unusable, f.EmulatorError, "no sandbox can start")
	}
	return Check{Name: "qemu", State: OK, Found: f.Emulator}
}

// onFirecracker tells whether Firecracker would run sandboxes.
func (f Facts) onFirecracker() bool { return f.VMM == "firecracker" }

// firecracker is no condition of anything: QEMU is used where it is missing.
func firecracker(f Facts) Check {
	c := Check{Name: "firecracker", State: OK}
	switch {
	case f.Host.OS != "linux":
		c.Found = "it is for Linux only"
	case f.FirecrackerError != nil && f.FirecrackerNamed:
		return failed("firecracker", Degraded, f.FirecrackerError, "--backend firecracker cannot be used")
	case f.FirecrackerError != nil:
		c.Found, c.Means, c.Fix = "none that can be used: "+f.FirecrackerError.Error(), "sandboxes run on QEMU", fault.HintOf(f.FirecrackerError)
	default:
		c.Found = f.Firecracker + ", SHA-256 " + f.FirecrackerSum
		switch {
		case f.onFirecracker():
			c.Means = "it runs sandboxes"
		case !f.KVM.Usable:
			c.Means = "it needs KVM, which is of no use here: sandboxes run on QEMU"
		default:
			c.Means = "sandboxes run on QEMU, as backend says"
		}
		if f.FirecrackerKnown != "" {
			c.Found += ": " + f.FirecrackerKnown
		} else {
			c.Fix = "That digest is not among those known to this smolvm: compare it with the one that the release publishes."
		}
	}
	return c
}

func kvm(f Facts) Check {
	c := Check{Name: "kvm", State: OK}
	switch {
	case f.Host.OS == "darwin":
		c.Found = "Apple's Hypervisor framework is used instead"
	case f.KVM.Usable && f.Boot.Why != "":
		c.State, c.Found, c.Means = Untested, "it runs single instructions", "whether it runs a whole guest was not tried: "+f.Boot.Why
	case f.KVM.Usable:
		c.Found = "it runs guests"
	default:
		c.State, c.Found, c.Means = Degraded, f.KVM.Reason, "sandboxes are emulated: they work, several times slower"
		c.Fix, c.Commands = kvmFix(f)
	}
	return c
}

// kvmFix says what helps, where something does.
func kvmFix(f Facts) (fix string, commands []string) {
	switch {
	case strings.Contains(f.KVM.Reason, "no permission"):
		return "Join the group that owns it and log in again.", []string{"sudo usermod --append --groups kvm " + f.User}
	case strings.Contains(f.KVM.Reason, "there is no"):
		if f.Survey.Extensions == "" {
			return "Switch virtualization on in the firmware, or in the settings of the virtual machine that this is.", nil
		}
		return "Load the module.", []string{"sudo modprobe kvm_" + map[string]string{"vmx": "intel", "svm": "amd"}[f.Survey.Extensions]}
	case strings.Contains(f.KVM.Reason, "busy"):
		return "Stop the other virtualization program that holds it.", nil
	}
	return "Nothing inside this computer helps: whatever runs it has to pass real virtualization on.", nil
}

func boot(f Facts) Check {
	c := Check{Name: "boot", State: OK}
	switch {
	case f.Boot.Why != "":
		c.State, c.Found, c.Means = Untested, "no guest was started: "+f.Boot.Why, "a start may still fail"
		return c
	case f.Boot.Err != nil:
		return failed("boot", Unusable, f.Boot.Err, "no sandbox can start")
	}
	c.Found = fmt.Sprintf("a guest (%s, %s) was up in %s", f.Boot.Kernel, accelerator(f.Boot.Accel), f.Boot.Took.Round(10*time.Millisecond))
	if f.Boot.Took > slowBoot {
		c.State, c.Means = Degraded, "that is slow: starts will feel so"
		c.Fix = "Look what else keeps the processors busy."
	}
	return c
}

func accelerator(name string) string {
	words := map[string]string{"tcg": "emulated", "kvm": "under KVM", "hvf": "under Apple's Hypervisor framework"}
	return words[name]
}

func formatter(f Facts) Check {
	if f.Formatter != nil {
		c := failed("mkfs.ext4", Degraded, f.Formatter, "each new sandbox formats its own disk, which takes a little longer")
		return c
	}
	return Check{Name: "mkfs.ext4", State: OK, Found: "it is here"}
}

// failed is the check of something that an error speaks about.
func failed(name string, state State, err error, means string) Check {
	return Check{Name: name, State: state, Found: err.Error(), Means: means, Fix: fault.HintOf(err)}
}

func parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return "(" + text + ")"
}

func mebibytes(n int64) string {
	if n < 10<<10 {
		return fmt.Sprintf("%d MiB", n)
	}
	return fmt.Sprintf("%d GiB", n>>10)
}
