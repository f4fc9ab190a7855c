package firecracker

import "github.com/smolvm/smolvm/internal/vmm"

// What Firecracker needs of its control group beyond its guest's memory and processors.
const (
	// ownMemory is in bytes: Firecracker's own (5 MiB), what the kernel keeps for it, the
	// stage before it, and a disk cache that leaves it room to write disks and snapshots.
	ownMemory = 512 << 20
	// ownProcessors are for the thread that serves the devices.
	ownProcessors = 1
)

var _ vmm.Estimator = (*Driver)(nil)

// Needs are what Firecracker takes to run a spec.
func (d *Driver) Needs(s vmm.Spec) vmm.Needs {
	return s.Needs(vmm.Needs{Memory: ownMemory, Processes: ownThreads, CPUs: ownProcessors})
}
