//go:build linux

package faultdisk

import (
	"slices"
	"strings"
	"syscall"
)

// Kind is a kind of operation.
type Kind string

// The operations. Those up to SyncFolder modify the disk, or what is durable of
// it: each is a step.
const (
	Create     Kind = "create" // a file, link to a name, FIFO
	Mkdir      Kind = "mkdir"
	Link       Kind = "link"
	Unlink     Kind = "unlink"
	Rmdir      Kind = "rmdir"
	Rename     Kind = "rename"
	Write      Kind = "write"
	Resize     Kind = "resize"
	Attribute  Kind = "attribute" // mode, owner, times
	Allocate   Kind = "allocate"  // space, or a hole
	Sync       Kind = "sync"
	SyncFolder Kind = "syncfolder"

	Open     Kind = "open"
	Read     Kind = "read"
	ReadDir  Kind = "readdir"
	StatDisk Kind = "statdisk"
)

func (k Kind) modifies() bool { return !slices.Contains([]Kind{Open, Read, ReadDir, StatDisk}, k) }

// Fault makes operations fail.
type Fault struct {
	Kind  Kind   // empty: every step
	Path  string // only where the path below the disk's root contains this
	Skip  int    // so many go well before
	Times int    // so many fail; 0: all that follow
	Err   syscall.Errno
	Short int // a Write does only so many bytes, and says so; Err is not used
}

// script is what will go wrong.
type script struct {
	faults []Fault
	steps  []string
	stopAt int
	stop   func()
	off    bool
	left   int64 // bytes that may still be taken; below 0: no limit
}

func newScript() script { return script{left: -1} }

// Fail replaces the faults. Without arguments nothing fails from now on.
func (d *Disk) Fail(faults ...Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script.faults = slices.Clone(faults)
}

// Fill makes the disk full after so many more bytes, which statfs does not tell;
// below 0 takes that away.
func (d *Disk) Fill(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script.left = (bytes + blockSize - 1) / blockSize * blockSize
	if bytes < 0 {
		d.script.left = -1
	}
}

// StopAt calls stop in place of the n-th step from now, the first being 1, and
// lets no step through after it until Continue or PowerCut. Stop must not use
// the disk; it kills the process under test.
func (d *Disk) StopAt(n int, stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script.stopAt, d.script.stop = len(d.script.steps)+n, stop
}

// Continue lets steps through again.
func (d *Disk) Continue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.script.off, d.script.stop = false, nil
}

// Steps lists what programs did to the disk since it was made, mounted again
// after a power cut, or asked this way.
func (d *Disk) Steps() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	steps := d.script.steps
	d.script.steps = nil
	return steps
}

// step asks the script about an operation, with the lock held. Bytes is how many
// of a write are allowed.
func (d *Disk) step(kind Kind, path string, bytes int) (allowed int, errno syscall.Errno) {
	s := &d.script
	if kind.modifies() {
		if s.off {
			return 0, syscall.EIO
		}
		s.steps = append(s.steps, string(kind)+" "+path)
		if s.stop != nil && len(s.steps) == s.stopAt {
			s.off = true
			s.stop()
			return 0, syscall.EIO
		}
	}
	for i := range s.faults {
		if f := &s.faults[i]; f.meets(kind, path) {
			if kind == Write && f.Short > 0 {
				return min(f.Short, bytes), 0
			}
			return 0, f.Err
		}
	}
	return bytes, 0
}

// meets tells whether the fault spoils this operation, and counts it.
func (f *Fault) meets(kind Kind, path string) bool {
	if f.Times < 0 || f.Kind != kind && (f.Kind != "" || !kind.modifies()) || !strings.Contains(path, f.Path) {
		return false
	}
	if f.Skip > 0 {
		f.Skip--
		return false
	}
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			f.Times = -1
		}
	}
	return true
}

// room is how many more blocks can be taken.
func (d *Disk) room() int64 {
	room := d.options.Capacity/blockSize - d.used
	if d.script.left >= 0 {
		room = min(room, d.script.left/blockSize)
	}
	return max(room, 0)
}

// take counts blocks that were taken, or given back when below 0.
func (d *Disk) take(blocks int64) {
	d.used += blocks
	if d.script.left >= 0 && blocks > 0 {
		d.script.left = max(d.script.left-blocks*blockSize, 0)
	}
}
