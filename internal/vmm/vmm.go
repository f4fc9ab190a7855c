// Package vmm says what SmolVM asks of a virtual machine monitor: start a
// machine from a Spec, give its guest link, tell when it ended, end it.
//
// Inputs are paths that are already verified; outputs are a running Machine.
// A driver leaves nothing behind but sockets in Spec.RunDir, which the caller
// owns and removes. A Machine never outlives the process that started it.
package vmm

import (
	"context"
	"io"
	"net"
	"os"

	"github.com/smolvm/smolvm/internal/wire"
)

// Accel is the way guest instructions are run.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm" // Linux hardware virtualization
	HVF Accel = "hvf" // Apple's Hypervisor framework
	TCG Accel = "tcg" // QEMU's emulation: any host, any guest architecture, slow
)

// Drive is one disk of the machine, in the order the guest counts them.
type Drive struct {
	ID       string // role: layer0, layer1, ..., scratch, seed, extra0; at most 20 bytes
	Path     string // a raw image
	ReadOnly bool   // refused at the block layer, not only by the guest's mount
}

// Spec is all a driver needs to start a machine.
type Spec struct {
	Name      string // for messages and the process title
	Arch      string // of the guest: amd64 or arm64
	Accel     Accel
	CPUs      int
	MemoryMiB int64
	Kernel    string // path
	Initrd    string // path
	// CommandLine is the part of the kernel command line that does not depend on
	// the VMM; the driver adds console, panic and timer options of its own.
	CommandLine string
	Drives      []Drive
	Network     bool      // one virtio network card, whose other end Networked gives
	RunDir      string    // private (0700) folder for sockets; short path
	Console     io.Writer // everything the guest writes on its serial console; never nil
	// Track has the monitor note which pages of memory the guest changes, which a Differ
	// needs. It costs as long as the guest runs (each first write to a page after a start
	// or a snapshot is a fault, and KVM maps guest memory in small pages only), so it is
	// for who will ask for differences. A driver whose machines are none refuses it.
	Track bool
	// Group is the open folder of the control group that the VMM is started in, each
	// time that it is; nil: in that of this process. The caller closes it after the end.
	Group *os.File
}

// Needs are what a VMM takes of this computer at most, its guest included.
type Needs struct {
	Memory    uint64 // bytes, its part of the kernel's memory and of disk caches included
	Processes uint64 // and threads, those of the stage that builds its cage included
	CPUs      int    // processors
}

// What every VMM takes besides its own.
const (
	// PageTables is how many bytes of guest memory take one byte of the kernel's: 8 bytes
	// for each page of 4 KiB, of the VMM's and of KVM's tables, doubled.
	PageTables = 128
	// stageThreads are those of a Go program before it becomes the VMM.
	stageThreads = 64
)

// Needs adds what a VMM takes of its own to what the guest of a spec does.
func (s Spec) Needs(own Needs) Needs {
	guest := uint64(s.MemoryMiB) << 20
	return Needs{
		Memory: guest + guest/PageTables + own.Memory, Processes: uint64(s.CPUs) + own.Processes + stageThreads, CPUs: s.CPUs + own.CPUs,
	}
}

// Estimator is a Driver that knows what it takes to run a spec.
type Estimator interface {
	Needs(spec Spec) Needs
}

// Machine is a started virtual machine.
type Machine interface {
	// Link waits until the guest has opened its link port and returns the byte
	// stream to it. The stream ends with io.EOF when the guest closes the port or
	// reboots; Link may then be called again. Bytes of an earlier boot may precede
	// the magic of the new one: the guest link drops them.
	Link(ctx context.Context) (net.Conn, error)
	// Share does the same for the port that carries mounts.
	Share(ctx context.Context) (net.Conn, error)
	// Wait returns when the VMM process has ended, with nil after a clean end
	// (guest powered off, or Kill) and the reason otherwise, with the last lines
	// of the VMM's own messages.
	Wait() error
	// Kill ends the VMM process at once and waits for it.
	Kill() error
	// Pid is the VMM's process id, for information.
	Pid() int
}

// Confined is a Machine that tells how its monitor is locked up.
type Confined interface {
	// Confinement tells whether the monitor runs in a cage; where it does not, why says
	// what forbids it, or is nil where the operating system knows none.
	Confinement() (caged bool, why error)
}

// Networked is a Machine whose network is made in this process.
type Networked interface {
	// Card is the host's end of the machine's network card; nil without one. It
	// outlives reboots and ends with the machine; whoever takes it closes it.
	Card() Card
}

// Card carries whole Ethernet frames, without their checksum. One goroutine may
// read while several write.
type Card interface {
	// ReadFrame reads the next frame into p; one that is longer is an error.
	ReadFrame(p []byte) (int, error)
	// WriteFrame writes one frame, given in parts.
	WriteFrame(parts [][]byte) error
	io.Closer
}

// CardMTU is that of a machine's card. Where a VMM cannot tell the guest, the seed does.
const CardMTU = wire.MTU

// Pauser is a Machine that can be halted, and goes on as if nothing had been.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// Snapshotter is a Machine whose memory and devices can be kept. It has to be
// paused; its link ends when it goes on, and is opened anew by the guest. Drives are
// not part of a snapshot: the caller copies what the guest may write, while the
// machine is paused.
type Snapshotter interface {
	Pauser
	// Snapshot writes into dir, an empty folder of the caller's, and after an error
	// leaves it empty. What is in there holds all of the guest's memory. The machine
	// is kept at most once for each time that it is paused.
	Snapshot(ctx context.Context, dir string) error
}

// Differ is a Snapshotter that, where its Spec says Track, writes no more than the pages
// of memory that its guest changed since the machine's latest snapshot: the last that was
// taken of it, by either way, or else the one it was restored from.
type Differ interface {
	Snapshotter
	// Prepare readies a copy of the memory in base, the folder of the latest snapshot; any
	// other folder is refused. Where the file system cannot share blocks it takes as long
	// as a full snapshot, so it is for the time before the pause. What is prepared is gone
	// after the next snapshot, a failed one too, and when the guest reboots.
	Prepare(ctx context.Context, base string) error
	// Diff does what Snapshot does, from what was prepared. What it leaves in dir is
	// whole: base may go. Where writing it fails the next has to be a full snapshot.
	Diff(ctx context.Context, dir string) error
}

// Restorer is a Driver that starts machines from snapshots. The guest runs on from
// where it was paused, with the drives of spec, which are those of the snapshot by
// ID, order, size and content. The same snapshot may be restored any number of
// times, also at once, with a copy each of what the guest may write.
type Restorer interface {
	Restore(ctx context.Context, spec Spec, dir string) (Machine, error)
}

// Grower is a Machine whose drives can become larger while it runs. The file was
// made larger before; the guest is told by its device.
type Grower interface {
	GrowDrive(ctx context.Context, id string, size int64) error
}

// Memory is what a guest does with its memory, in bytes.
type Memory struct {
	Used     int64 // by its programs, kernel and caches
	Returned int64 // held by the balloon: the host has it
}

// Informed is a Machine whose monitor is told what its guest says of its memory.
type Informed interface {
	// Inform takes how many bytes the guest has, and how many of them nobody uses.
	// Whatever a guest may say is taken; what cannot be true is not believed.
	Inform(total, free int64)
}

// Meter is a Machine whose guest tells what it does with its memory.
type Meter interface {
	Memory(ctx context.Context) (Memory, error)
}

// Driver starts machines.
type Driver interface {
	// Start returns when the VMM runs the guest, not when the guest is ready.
	// Cancelling ctx ends only the start, not a machine that was returned.
	Start(ctx context.Context, spec Spec) (Machine, error)
}
