package firecracker

import "github.com/smolvm/smolvm/internal/vmm"

// What Firecracker needs of its control group beyond its guest's memory and processors.
const (
	// ownMemory is in bytes: Firecracker's own (5 MiB), what the kernel keeps for it, the
	// stage before it, and a disk cache that leaves it room to write disks and snapshots.
	ownMemory = 512 << 20
	// ownProcessors are for the thread that serves the devices.
	ownProcessors = 1
	// stageThreads are those of a Go program before it becomes Firecracker.
	stageThreads = 64
	// pageTables is how many bytes of guest memory take one byte of the kernel's: 8 bytes
	// for each page of 4 KiB, of Firecracker's and of KVM's tables, doubled.
	pageTables = 128
)

var _ vmm.Estimator = (*Driver)(nil)

// Needs are what Firecracker takes to run a spec.
func (d *Driver) Needs(s vmm.Spec) vmm.Needs {
	guest := uint64(s.MemoryMiB) * devicesAlign
	return vmm.Needs{
		Memory: guest + guest/pageTables + ownMemory, Processes: uint64(s.CPUs) + ownThreads + stageThreads, CPUs: s.CPUs + ownProcessors,
	}
}
