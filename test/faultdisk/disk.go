//go:build linux

// Package faultdisk is a file system for tests that fails like a disk does:
// errors, short writes, no space left, a machine that stops between any two
// steps, and power cuts that lose what was not synced.
//
// A Disk lives in memory and is mounted with FUSE, so that the programs under
// test are the real ones and simply use the file system. It keeps two states:
// the one that programs see, and the one that a power cut leaves. A file's bytes
// and attributes get from the first to the second by fsync of the file; its
// names by fsync of the folder they are in. A rename is one step for both
// folders. What was not synced may be there after a cut all the same, or a part
// of it: PowerCut throws dice for each of these changes, as real disks do.
//
// Inputs are Options, a script of faults (Fail, Fill) and a step to stop at
// (StopAt); outputs are the mounted folder and the list of steps that programs
// made (Steps). Nothing survives the process.
package faultdisk

import (
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Options are what kind of disk it is. The zero value is a good one of 1 GiB.
type Options struct {
	Capacity int64 // in bytes; 0: 1 GiB
	Files    int   // how many files and folders there can be; 0: 100,000
	NoLinks  bool  // hard links are refused, as on FAT
	NoSparse bool  // holes take space, as on FAT
}

// Disk is a file system in memory. Its methods may be called while programs use it.
type Disk struct {
	options Options
	dir     string
	server  *fuse.Server

	mu     sync.Mutex
	root   *inode
	next   uint64    // inode number
	used   int64     // blocks
	files  int       // inodes
	last   time.Time // no two changes have the same time
	undone []*change // of names, not durable yet
	serial int       // of changes
	script script
}

// New makes an empty disk.
func New(o Options) *Disk {
	if o.Capacity == 0 {
		o.Capacity = 1 << 30
	}
	if o.Files == 0 {
		o.Files = 100_000
	}
	d := &Disk{options: o, next: 1, script: newScript()}
	d.root = d.newInode(folderMode|0o755, 0, 0)
	d.root.links = 2
	d.files = 1
	return d
}

// Clone is a disk of the same kind with the same files, all of them durable.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{options: d.options, next: d.next, last: d.last, script: newScript()}
	c.adopt(copyTree(d.root, false, everything))
	return c
}

// Used is how many bytes are taken.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used * blockSize
}

// PowerCut takes the power away and gives it back: only what is durable is
// left, and of what is not, each change with a chance that the dice choose for
// this cut. Without dice nothing of it is left. The script ends, and a disk
// that is mounted is mounted again; no program may use it meanwhile.
func (d *Disk) PowerCut(dice *rand.Rand) error {
	dir := d.dir
	if err := d.Unmount(); err != nil {
		return err
	}
	d.cut(dice)
	if dir == "" {
		return nil
	}
	return d.Mount(dir)
}

func (d *Disk) cut(dice *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	chance := 0.0
	if dice != nil {
		chance = []float64{0.05, 0.3, 0.7, 0.95}[dice.IntN(4)]
		for _, c := range d.undone {
			if dice.Float64() < chance {
				d.commit(c)
			}
		}
	}
	d.adopt(copyTree(d.root, true, func(f *inode) (attributes, content) { return f.remains(dice, chance) }))
	d.undone = nil
	d.script = newScript()
}

// adopt makes a tree the disk's own.
func (d *Disk) adopt(root *inode, all []*inode) {
	d.root, d.files, d.used = root, len(all), 0
	for _, f := range all {
		d.used += f.data.allocated()
	}
}

// now is later than at any call before.
func (d *Disk) now() time.Time {
	now := time.Now()
	if !now.After(d.last) {
		now = d.last.Add(1)
	}
	d.last = now
	return now
}

// Rot flips one bit of a file's byte without any trace in times or size, as bad
// sectors and bad memory do. It tells whether there is such a byte.
func (d *Disk) Rot(name string, offset int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.root
	for part := range strings.SplitSeq(name, "/") {
		if f = f.entries[part]; f == nil {
			return false
		}
	}
	b := f.data.blocks[offset/blockSize]
	if b == nil || offset >= f.data.size {
		return false
	}
	fresh := *b
	fresh[offset%blockSize] ^= 0x10
	f.data.blocks[offset/blockSize] = &fresh
	if f.saved.data.blocks[offset/blockSize] != nil {
		f.saved.data.blocks[offset/blockSize] = &fresh
	}
	return true
}
