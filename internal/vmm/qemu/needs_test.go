package qemu

import (
	"testing"

	"github.com/smolvm/smolvm/internal/vmm"
)

// TestNeeds: a control group leaves a monitor what its cage allows it, and an emulator
// its translated code.
func TestNeeds(t *testing.T) {
	const guest = 2048
	d := &Driver{}
	under := d.Needs(vmm.Spec{Accel: vmm.KVM, CPUs: 2, MemoryMiB: guest})
	emulated := d.Needs(vmm.Spec{Accel: vmm.TCG, CPUs: 2, MemoryMiB: guest})
	if want := uint64(guest+guest/vmm.PageTables)*mebibyte + ownMemory; under.Memory != want || emulated.Memory != want+emulatorMemory {
		t.Errorf("memory of %d and, emulated, %d bytes; want %d", under.Memory, emulated.Memory, want)
	}
	if under.CPUs != 3 || under.Processes < 2+ownThreads {
		t.Errorf("needs %+v", under)
	}
	if emulated.Memory > guest*mebibyte+overhead {
		t.Errorf("%d bytes are more than its cage lets it ask for", emulated.Memory)
	}
}
