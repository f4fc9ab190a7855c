package cli

import (
	"fmt"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// Limits of a sandbox's size.
const (
	minMemory  = 256 << 20 // bytes: below, the kernel and the guest agent leave an agent nothing
	minDisk    = 256 << 20 // bytes: below, ext4's journal and the agent's home do not fit
	maxDisk    = 8 << 40   // bytes: as presets may ask for
	maxOwnCPUs = 4         // of a preset that names no number
	fallbackMB = 2048      // memory and 10 times that of disk, of a preset that names none
)

// checkSizes compares the flags with the host.
func checkSizes(o startOptions, host machine) error {
	switch {
	case o.CPUs > host.cpus:
		return fault.New(fault.Host, fmt.Sprintf("Give at most %d.", host.cpus),
			"--cpus %d is more than this computer's %d", o.CPUs, host.cpus)
	case host.memoryMiB > 0 && o.Memory > host.memoryMiB<<20:
		return fault.New(fault.Host, "Give less, such as "+sizeWord(host.memoryMiB<<20/2)+".",
			"--memory %s is more than this computer's %s", ui.Bytes(o.Memory), ui.Bytes(host.memoryMiB<<20))
	case o.Memory > 0 && o.Memory < minMemory:
		return refuse("Give at least "+sizeWord(minMemory)+".", "--memory %s is too little", ui.Bytes(o.Memory))
	case o.Disk > 0 && o.Disk < minDisk:
		return refuse("Give at least "+sizeWord(minDisk)+".", "--disk %s is too small", ui.Bytes(o.Disk))
	case o.Disk > maxDisk:
		return refuse("Give at most "+sizeWord(maxDisk)+".", "--disk %s is too large", ui.Bytes(o.Disk))
	}
	return nil
}

// sizeWord is a size as flags take it, in whole units and not more than it is.
func sizeWord(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}} {
		if bytes >= unit.size {
			return fmt.Sprintf("%d%s", bytes/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dK", bytes>>10)
}

func (l *launch) cpus(row manifest.Row) int {
	wanted := firstSet(l.options.CPUs, row.Resources.CPUs, l.preset.Resources.CPUs, maxOwnCPUs)
	if l.options.CPUs == 0 && l.machine.vmm == config.Firecracker {
		return firecracker.FewerProcessors(min(wanted, l.machine.cpus))
	}
	return min(wanted, l.machine.cpus)
}

// memoryMiB leaves the host a quarter of its memory where the user asked for nothing.
func (l *launch) memoryMiB(row manifest.Row) int64 {
	if l.options.Memory > 0 {
		return l.options.Memory >> 20
	}
	wanted := firstSet(row.Resources.MemoryMiB, l.preset.Resources.MemoryMiB, fallbackMB)
	if l.machine.memoryMiB == 0 { // unknown
		return wanted
	}
	return min(wanted, l.machine.memoryMiB/4*3)
}

func (l *launch) disk(row manifest.Row) int64 {
	return firstSet(l.options.Disk, row.Resources.DiskMiB<<20, l.preset.Resources.DiskMiB<<20, 10*fallbackMB<<20)
}

// firstSet is the first value above zero.
func firstSet[N int | int64](values ...N) N {
	for _, v := range values {
		if v > 0 {
			return v
		}
	}
	return 0
}
