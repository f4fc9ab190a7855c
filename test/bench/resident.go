//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// restTime is how long a guest is left alone before its monitor's memory is read.
	restTime = 15 * time.Second
	// qemuTime is how long QEMU's guest may take with KVM before emulation is tried.
	qemuTime = 4 * time.Minute
)

// resident is a monitor's resident memory in bytes.
type resident struct{ all, guest int64 }

// residents reads the memory of monitors whose guests rest, one after the other.
func (b *bench) residents(ctx context.Context, f *fire) (string, error) {
	text := fmt.Sprintf("Resident memory, %v after the guest has opened its link, on which it then waits, programs and libraries included; what is the guest's is that of the monitor's largest mapping:\n\n| | resident | the guest's | the monitor's own |\n|---|---|---|---|\n", restTime)
	bare, err := restOf(ctx, f.startBare)
	if err != nil {
		return "", fmt.Errorf("firecracker: %w", err)
	}
	caged, err := restOf(ctx, f.startCaged)
	if err != nil {
		return "", fmt.Errorf("firecracker in its cage: %w", err)
	}
	text += bare.row("Firecracker") + caged.row("Firecracker in SmolVM's cage")
	how, qemu, err := f.restOfQEMU(ctx)
	if err != nil {
		return text + fmt.Sprintf("\nQEMU: not measured: %v.\n", err), ctx.Err()
	}
	return text + qemu.row("QEMU, `microvm`, "+how) + fmt.Sprintf("| ratio, QEMU to Firecracker | %.2f | %.2f | %.2f |\n",
		float64(qemu.all)/float64(bare.all), float64(qemu.guest)/float64(bare.guest), float64(qemu.own())/float64(bare.own())), nil
}

func (r resident) own() int64 { return r.all - r.guest }

func (r resident) row(name string) string {
	return fmt.Sprintf("| %s | %s | %s | %s |\n", name, mib(r.all), mib(r.guest), mib(r.own()))
}

func restOf(ctx context.Context, start starter) (resident, error) {
	m, _, err := start(ctx, true)
	if err != nil {
		return resident{}, err
	}
	return m.rest(ctx)
}

// rest leaves the guest alone, reads, and ends it.
func (m *machine) rest(ctx context.Context) (r resident, err error) {
	if err = pause(ctx, restTime); err == nil {
		r, err = residentOf(m.pid)
	}
	return r, errors.Join(err, m.end())
}

// residentOf adds up a process's mappings. The largest is its guest's memory.
func residentOf(pid int) (r resident, err error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return r, err
	}
	defer file.Close()
	var size, largest int64
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		number, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		kib, err := strconv.ParseInt(number, 10, 64)
		switch {
		case err != nil: // the first line of a mapping, or its flags
		case name == "Size":
			size = kib
		case name == "Rss":
			r.all += kib << 10
			if size > largest {
				largest, r.guest = size, kib<<10
			}
		}
	}
	if largest < fireMiB<<10 {
		return r, errors.Join(lines.Err(), fmt.Errorf("process %d has no mapping of %d MiB", pid, fireMiB))
	}
	return r, lines.Err()
}

// restOfQEMU does the same with the same kernel and guest: with KVM if that comes up,
// else emulated.
func (f *fire) restOfQEMU(ctx context.Context) (how string, r resident, err error) {
	how = "KVM"
	// The processor that the tests' kernel comes up with where KVM interprets it.
	m, err := f.qemu(ctx, "-accel", "kvm", "-cpu", "qemu64,-cx16,-pni")
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bench: QEMU with KVM:", err)
		how = "emulation (with KVM this kernel did not come up)"
		m, err = f.qemu(ctx, "-accel", "tcg,thread=multi", "-cpu", "max")
	}
	if err != nil {
		return how, r, err
	}
	r, err = m.rest(ctx)
	return how, r, err
}

// qemu starts QEMU with the devices that SmolVM gives it, as far as this guest has them
// under Firecracker. Without ACPI: that kernel has none, and is told of its devices on
// its command line then.
func (f *fire) qemu(ctx context.Context, how ...string) (*machine, error) {
	ctx, cancel := context.WithTimeout(ctx, qemuTime)
	defer cancel()
	dir, err := os.MkdirTemp(f.scratch, "qemu-")
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "link")
	door, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	khz := strconv.FormatInt(host.Probe().TSCKHz, 10)
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	cmd := exec.Command("qemu-system-x86_64", append(how,
		"-nodefaults", "-no-user-config", "-display", "none", "-M", "microvm,acpi=off,mem-merge=off,dump-guest-core=off",
		"-smp", "1", "-m", fmt.Sprintf("%dM", fireMiB), "-kernel", f.kernel(), "-initrd", f.initrd,
		"-append", "console=ttyS0 reboot=t panic=-1 cryptomgr.notests=1 quiet tsc=reliable tsc_early_khz="+khz+" "+f.arguments,
		"-serial", "stdio", "-global", "virtio-mmio.force-legacy=false",
		"-device", "virtio-serial-device", "-chardev", "socket,id=link,path="+socket,
		"-device", "virtserialport,chardev=link,name="+wire.PortName, "-device", "virtio-rng-device",
	)...)
	cmd.Stdout, cmd.Stderr = console, console
	m, err := started(cmd)
	if err != nil {
		return nil, err
	}
	if m.link, err = greeted(ctx, door); err != nil {
		said, _ := os.ReadFile(console.Name())
		return nil, errors.Join(fmt.Errorf("%w; the end of what it said: %q", err, said[max(0, len(said)-500):]), m.end())
	}
	return m, nil
}

// greeted waits for the first byte of the guest.
func greeted(ctx context.Context, door net.Listener) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = door.Close() })
	defer stop()
	conn, err := door.Accept()
	if err != nil {
		return nil, err
	}
	late := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer late()
	_, err = conn.Read(make([]byte, 1))
	return conn, err
}
