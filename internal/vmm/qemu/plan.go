package qemu

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// firstFD is the descriptor of the first file that a program inherits besides the
// standard ones.
const firstFD = 3

// plan is everything that is decided about a machine before QEMU starts. Its
// fields are values that tests compare; arguments renders them.
type plan struct {
	tool    process.Tool
	machine string // -M
	accel   string // -accel
	cpu     string // -cpu
	bus     string // how virtio devices are attached: device (MMIO) or pci
	kernel  string // what the driver adds to the kernel command line
	sandbox bool   // QEMU confines itself with seccomp
	spec    vmm.Spec
	firstFD int          // descriptor of the first socket
	cage    *confinement // nil: it runs without
	uncaged error        // why; nil: this system has no cages
	from    *snapshot    // what it runs on from; nil: it boots
}

// sandboxArgument lets QEMU keep only the system calls a running machine needs.
const sandboxArgument = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// Options of every machine: guest memory is neither merged with that of other
// machines (a side channel between sandboxes) nor written into core dumps.
const machineOptions = ",mem-merge=off,dump-guest-core=off"

// Kernel options of every machine.
//
// panic=-1 reboots at once after a panic: the host sees the link end and the
// panic's text on the console. cryptomgr.notests=1 skips the self-tests of
// algorithms, which cost 0.1 s of boot and 0.4 s of CPU under emulation.
const kernelOptions = "panic=-1 cryptomgr.notests=1"

// newPlan decides for one machine on one host.
func newPlan(spec vmm.Spec, host Host) (plan, error) {
	if err := check(spec); err != nil {
		return plan{}, err
	}
	p := plan{spec: spec, firstFD: firstFD, accel: string(spec.Accel), sandbox: host.OS == "linux", kernel: kernelOptions}
	if spec.Accel == vmm.TCG {
		// One thread per guest processor; by default QEMU does so only for guests
		// whose memory order the host can keep.
		p.accel = "tcg,thread=multi"
	}
	switch spec.Arch {
	case "amd64":
		p.amd64(host)
	case "arm64":
		p.arm64()
	default:
		return plan{}, fault.New(fault.Usage, "", "start virtual machine %s: no machine for architecture %q", spec.Name, spec.Arch)
	}
	if spec.Accel != vmm.TCG && spec.Arch != host.Arch {
		return plan{}, fault.New(fault.Host, "Use emulation for guests of another architecture.",
			"start virtual machine %s: %s cannot run an %s guest on an %s host", spec.Name, spec.Accel, spec.Arch, host.Arch)
	}
	return p, nil
}

// amd64 chooses between two machines. microvm has no PCI and few legacy devices
// and comes up 0.2-0.4 s earlier, but without a clock reference the kernel
// trusts its guess of an emulated time-stamp counter, finds it wrong later and
// hangs in half of the boots ("Marking TSC unstable"); tsc_early_khz tells it
// the host's real frequency, which the emulated counter has. Where that is not
// known, and on macOS, q35 is used, which never hung.
//
// Measured on 2 cores with Debian's cloud 6.12 kernel and a static init, median
// of 5 from QEMU's start to power-off: microvm 1.8-2.1 s, q35 2.3 s, q35 without
// the devices switched off below 2.0-2.1 s; option ROMs off 0.1 s less, but then
// QEMU 10 never starts an uncompressed kernel; no clock chip (rtc=off) 2.0 s
// more, as the kernel waits for it in vain; no interrupt controller, tb-size,
// another -cpu, la57=off, mitigations=off, nokaslr: no difference. An
// uncompressed kernel saves 0.6 s of either: the manifest's row, not this
// driver, decides about that.
func (p *plan) amd64(host Host) {
	p.tool = process.QEMUx86
	p.cpu = "host"
	p.kernel = "console=ttyS0 reboot=t " + p.kernel // reboot=t: a triple fault resets every machine at once
	emulated := p.spec.Accel == vmm.TCG
	if emulated {
		p.cpu = "max" // qemu64 boots no faster and lacks what compiled programs expect (x86-64-v2, AES, RDRAND)
	}
	if p.spec.Accel == vmm.HVF || emulated && (host.TSCKHz == 0 || host.Arch != "amd64") {
		p.machine, p.bus = "q35,vmport=off,sata=off,smbus=off"+machineOptions, "pci"
		return
	}
	p.machine, p.bus = "microvm"+machineOptions, "device"
	if emulated {
		// no_timer_check: on a busy host the check of the timer interrupt can miss
		// its ticks and panic. tsc=reliable: the counter is the host's own; else the
		// kernel gives it up when the host is busy, and a clock that counts timer
		// ticks ran up to twice too slow.
		// lpj, the turns of a delay loop in one timer tick, saves a second processor its
		// calibration: 0.1-0.2 s. It is that of 100 ticks a second, which our kernel has;
		// where there are more, delays are longer than asked for, never shorter.
		p.kernel += " no_timer_check tsc=reliable tsc_early_khz=" + strconv.FormatInt(host.TSCKHz, 10) +
			" lpj=" + strconv.FormatInt(host.TSCKHz*1000/100, 10)
	}
}

// arm64 uses the virt machine with its MMIO transports.
func (p *plan) arm64() {
	p.tool = process.QEMUArm
	p.cpu = "host"
	p.machine, p.bus = "virt"+machineOptions, "device"
	p.kernel = "console=ttyAMA0 " + p.kernel
	switch p.spec.Accel {
	case vmm.KVM:
		p.machine += ",gic-version=host"
	case vmm.TCG:
		p.machine += ",gic-version=3"
		// The architected pointer authentication costs a block cipher for every
		// call; QEMU's own hash does the same job in an emulated guest.
		p.cpu = "max,pauth-impdef=on"
	case vmm.HVF: // its interrupt controller is the default one
	}
}

// idPattern is what a drive's ID may be: it goes into option lists unquoted.
var idPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)

func check(spec vmm.Spec) error {
	refuse := func(format string, args ...any) error {
		return fault.New(fault.Usage, "", "start virtual machine %s: %w", spec.Name, fmt.Errorf(format, args...))
	}
	seen := map[string]bool{}
	for _, d := range spec.Drives {
		if !idPattern.MatchString(d.ID) || seen[d.ID] {
			return refuse("drive name %q is taken or not of 1 to 20 letters and digits", d.ID)
		}
		seen[d.ID] = true
	}
	switch {
	case spec.CPUs < 1:
		return refuse("%d processors", spec.CPUs)
	case spec.MemoryMiB < 64:
		return refuse("%d MiB of memory", spec.MemoryMiB)
	case spec.Console == nil:
		return refuse("nowhere to write the console")
	case spec.Track:
		return refuse("QEMU's snapshots are whole: it does not note what changes")
	}
	return nil
}

// arguments renders QEMU's command line.
func (p plan) arguments() []string {
	s, fd := p.spec, p.firstFD-1
	socket := func() int { // in the order in which newMachine makes them
		fd++
		return fd
	}
	args := []string{
		"-name", "smolvm-" + strings.ReplaceAll(s.Name, ",", ",,"),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-M", p.machine, "-accel", p.accel, "-cpu", p.cpu,
		"-smp", strconv.Itoa(s.CPUs), "-m", strconv.FormatInt(s.MemoryMiB, 10) + "M",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", socket()), "-mon", "chardev=qmp,mode=control",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-kernel", s.Kernel, "-initrd", s.Initrd,
		"-append", strings.TrimSpace(p.kernel + " " + s.CommandLine),
	}
	if p.sandbox {
		args = append(args, "-sandbox", sandboxArgument)
	}
	if p.bus == "device" {
		// Without this QEMU's MMIO transport speaks the draft of virtio only.
		args = append(args, "-global", "virtio-mmio.force-legacy=false")
	}
	args = append(args, "-device", "virtio-serial-"+p.bus)
	for _, port := range portTable {
		if p.from == nil {
			args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", port.id, socket()),
				"-device", fmt.Sprintf("%s,id=%s,chardev=%s,name=%s", portDevice, port.id, port.id, port.name))
		}
	}
	args = append(args, "-device", "virtio-rng-"+p.bus)
	for _, d := range s.Drives {
		args = append(args, p.drive(d)...)
	}
	if s.Network {
		device := fmt.Sprintf("virtio-net-%s,netdev=net0,host_mtu=%d", p.bus, vmm.CardMTU)
		if p.bus != "device" {
			device += ",romfile="
		}
		args = append(args, "-netdev", fmt.Sprintf("stream,id=net0,addr.type=fd,addr.str=%d", socket()), "-device", device)
	}
	if p.from != nil {
		args = append(args, "-S", "-incoming", "defer")
	}
	return args
}

// drive renders one disk. What is read-only is opened so, which also lets any
// number of machines share the file under QEMU's own file locks. A writable one
// gives back to the host what the guest discards or zeroes, and reports a full
// host disk to the guest as an error: QEMU's default is to halt the machine.
func (p plan) drive(d vmm.Drive) []string {
	node := map[string]any{
		"node-name": d.ID, "driver": "raw", "read-only": d.ReadOnly,
		"file": map[string]any{"driver": "file", "filename": d.Path, "read-only": d.ReadOnly},
	}
	device := fmt.Sprintf("virtio-blk-%s,id=dev-%s,drive=%s,serial=%s,werror=report,rerror=report", p.bus, d.ID, d.ID, d.ID)
	if !d.ReadOnly {
		node["discard"], node["detect-zeroes"] = "unmap", "unmap"
	}
	text, _ := json.Marshal(node) // strings and booleans only: cannot fail
	return []string{"-blockdev", string(text), "-device", device}
}
