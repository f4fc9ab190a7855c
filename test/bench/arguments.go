//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// accesses are how often a guest's kernel reads or writes registers of devices: each is
// an exit to the machine monitor where the processor is not emulated. Timers are not
// counted: how often they are read depends on how long the emulator takes.
type accesses struct{ serial, bus, all int }

// arguments measures what each boot argument of Firecracker's guests saves: our kernel
// boots without one after the other, to its panic for want of a root.
func (b *bench) arguments(ctx context.Context) (string, error) {
	const title = "## Boot arguments under Firecracker\n\n"
	folder, ok := ownKernelFolder("amd64")
	if !ok || runtime.GOARCH != "amd64" {
		return title + "Not measured: SmolVM's own kernel for amd64 is not in the build cache, or this is another computer's architecture.\n", nil
	}
	base, err := imagebuild.ReadBase(images.Files())
	if err != nil {
		return "", err
	}
	// What QEMU's driver tells an emulated guest of its clock.
	khz := host.Probe().TSCKHz
	clock := fmt.Sprintf(" no_timer_check tsc=reliable tsc_early_khz=%d lpj=%d", khz, khz*1000/100)
	used := firecracker.BootArguments + " " + base.Kernel.OwnCommandLine
	text := title + "Registers of devices that our kernel reads and writes from its entry to its panic for want of a root, on QEMU's `microvm` with as little as Firecracker's machine has (no bus, ACPI, a serial port), emulated. Under KVM each is an exit to the machine monitor. Timers are not counted.\n\n| arguments | serial port | PCI configuration | all | time |\n|---|---|---|---|---|\n"
	for _, v := range variants(used, base.Kernel.OwnCommandLine) {
		var times series
		var count accesses
		for range b.rounds {
			var took time.Duration
			if count, took, err = b.bootTraced(ctx, filepath.Join(folder, "vmlinux"), v.arguments+clock); err != nil {
				return "", fmt.Errorf("boot with %s: %w", v.arguments, err)
			}
			times = append(times, took)
		}
		text += fmt.Sprintf("| %s | %d | %d | %d | %s |\n", v.name, count.serial, count.bus, count.all, times)
	}
	return text, nil
}

// variant is a command line and what is different in it.
type variant struct{ name, arguments string }

// variants are what is used, that without each argument in turn, and what is not used.
func variants(used, own string) []variant {
	list := []variant{{"as they are: `" + used + "`", used}, {"without `" + own + "`", strings.TrimSuffix(used, own)}}
	for _, word := range strings.Fields(strings.TrimSuffix(used, own)) {
		list = append(list, variant{"without `" + word + "`", strings.TrimSpace(strings.Replace(" "+used+" ", " "+word+" ", " ", 1))})
	}
	for _, more := range []string{"i8042.noaux i8042.nomux i8042.dumbkbd", "cryptomgr.notests=1", "acpi=off"} {
		list = append(list, variant{"with `" + more + "`, not used", used + " " + more})
	}
	return list
}

// bootTraced boots a kernel, counts what it does, and says how long it took.
func (b *bench) bootTraced(ctx context.Context, kernel, arguments string) (count accesses, took time.Duration, err error) {
	trace, serial := filepath.Join(b.scratch, "trace"), filepath.Join(b.scratch, "serial")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "microvm,pcie=off,acpi=on,isa-serial=on", "-cpu", "max", "-accel", "tcg,thread=single",
		"-m", "512", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:"+serial, "-kernel", kernel,
		"-append", arguments, "-D", trace, "-d", "trace:memory_region_ops_read,trace:memory_region_ops_write")
	took, err = timed(func() error {
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return count, took, err
	}
	said, err := os.ReadFile(serial)
	if err == nil && !strings.Contains(string(said), "Unable to mount root") {
		err = errors.New("the kernel did not come to its end")
	}
	if err != nil {
		return count, took, err
	}
	count, err = countAccesses(trace)
	return count, took, err
}

// Registers by address: of the serial port and the bus, which are ports of x86, and of
// timers: the PIT's, its gate, and the processor's own.
func countAccesses(path string) (c accesses, err error) {
	file, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); ; {
		if !lines.Scan() {
			return c, lines.Err()
		}
		_, rest, ok := strings.Cut(lines.Text(), " addr 0x")
		if !ok {
			continue
		}
		word, _, _ := strings.Cut(rest, " ")
		address, err := strconv.ParseUint(word, 16, 64)
		switch {
		case err != nil:
			return c, fmt.Errorf("read %q: %w", lines.Text(), err)
		case address >= 0x40 && address <= 0x43, address == 0x61, address>>12 == 0xfee00:
			continue
		case address>>3 == 0x3f8>>3:
			c.serial++
		case address>>3 == 0xcf8>>3:
			c.bus++
		}
		c.all++
	}
}
