package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests and structures of linux/kvm.h for x86-64.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84
	kvmSetRegs             = 0x4090ae82

	kvmAPIVersion = 12

	exitReasonAt  = 8 // offset of exit_reason in struct kvm_run
	exitHLT       = 5
	exitInternal  = 17
	suberrorAt    = 32 // offset of internal.suberror in struct kvm_run
	sregsSize     = 0x138
	csBaseAt      = 0      // struct kvm_sregs starts with cs; its base comes first
	csSelectorAt  = 12     // behind base (8) and limit (4)
	regsSize      = 0x90   // struct kvm_regs
	ripAt         = 16 * 8 // behind the 16 general registers
	rflagsAt      = 17 * 8 // then rflags
	rflagsAtReset = 2      // bit 1 is always set
)

// program is popcnt ax,ax; hlt in real mode. A processor's own virtualization
// runs it; where KVM interprets kernel-mode instructions instead, it does not
// know popcnt. (nop; hlt works there too and would mislead.)
var program = []byte{0xf3, 0x0f, 0xb8, 0xc0, 0xf4}

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	Slot, Flags      uint32
	GuestPhys, Bytes uint64
	UserspaceAddress uint64
}

// instructionProbed says whether instruction asks the device anything.
const instructionProbed = true

// instruction runs the program on a bare virtual processor: about 2 ms.
func instruction(device string) error {
	kvm, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { _ = unix.Close(kvm) }()
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != kvmAPIVersion {
		return fmt.Errorf("API version %d, want %d: %w", v, kvmAPIVersion, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("create a virtual machine: %w", err)
	}
	defer func() { _ = unix.Close(vm) }()
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("make guest memory: %w", err)
	}
	defer func() { _ = unix.Munmap(page) }()
	copy(page, program)
	region := memoryRegion{Bytes: uint64(len(page)), UserspaceAddress: uint64(uintptr(unsafe.Pointer(&page[0])))}
	if _, err := ioctlPointer(vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return fmt.Errorf("set guest memory: %w", err)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return fmt.Errorf("size of a processor's state: %w", err)
	}
	return runOnce(vm, size)
}

// runOnce makes a processor, starts it at address 0 and explains its first exit.
func runOnce(vm, size int) error {
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("create a processor: %w", err)
	}
	defer func() { _ = unix.Close(cpu) }()
	state, err := unix.Mmap(cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a processor's state: %w", err)
	}
	defer func() { _ = unix.Munmap(state) }()
	if err := point(cpu); err != nil {
		return err
	}
	for {
		_, err = ioctl(cpu, kvmRun, 0)
		if !errors.Is(err, unix.EINTR) { // a signal of the Go scheduler
			break
		}
	}
	if err != nil {
		return fmt.Errorf("run a processor: %w", err)
	}
	switch reason := binary.NativeEndian.Uint32(state[exitReasonAt:]); reason {
	case exitHLT:
		return nil
	case exitInternal:
		return fmt.Errorf("it cannot run an ordinary instruction (internal error, suberror %d)", binary.NativeEndian.Uint32(state[suberrorAt:]))
	default:
		return fmt.Errorf("an ordinary instruction ended with exit reason %d", reason)
	}
}

// point sets the processor to address 0 of segment 0.
func point(cpu int) error {
	var sregs [sregsSize]byte
	if _, err := ioctlPointer(cpu, kvmGetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("read registers: %w", err)
	}
	binary.NativeEndian.PutUint64(sregs[csBaseAt:], 0)
	binary.NativeEndian.PutUint16(sregs[csSelectorAt:], 0)
	if _, err := ioctlPointer(cpu, kvmSetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set segment registers: %w", err)
	}
	var regs [regsSize]byte
	binary.NativeEndian.PutUint64(regs[ripAt:], 0)
	binary.NativeEndian.PutUint64(regs[rflagsAt:], rflagsAtReset)
	if _, err := ioctlPointer(cpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set registers: %w", err)
	}
	return nil
}

func ioctl(fd int, request, argument uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// ioctlPointer passes a structure the kernel reads or fills during the call.
func ioctlPointer(fd int, request uintptr, argument unsafe.Pointer) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}
