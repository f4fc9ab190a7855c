//go:build linux

package faultdisk

import (
	"path"
	"syscall"
	"time"
)

// The operations, each with the lock held.

// add makes a node in a folder.
func (d *Disk) add(kind Kind, folder *inode, name string, mode, owner, group uint32) (*inode, syscall.Errno) {
	if _, errno := d.step(kind, path.Join(folder.path(), name), 0); errno != 0 {
		return nil, errno
	}
	switch {
	case folder.links == 0:
		return nil, syscall.ENOENT
	case folder.entries[name] != nil:
		return nil, syscall.EEXIST
	case d.files >= d.options.Files:
		return nil, syscall.ENOSPC
	}
	f := d.newInode(mode, owner, group)
	d.files++
	f.links = 1
	if f.folder() {
		f.links = 2
		folder.links++
	}
	d.apply(naming{folder, name, f})
	return f, 0
}

// maxLinks is what ext4 allows.
const maxLinks = 65000

func (d *Disk) link(f, folder *inode, name string) syscall.Errno {
	if _, errno := d.step(Link, path.Join(folder.path(), name), 0); errno != 0 {
		return errno
	}
	switch {
	case d.options.NoLinks:
		return syscall.EPERM
	case f.links == 0:
		return syscall.ENOENT
	case f.links >= maxLinks:
		return syscall.EMLINK
	case folder.entries[name] != nil:
		return syscall.EEXIST
	}
	f.links++
	d.apply(naming{folder, name, f})
	return 0
}

func (d *Disk) remove(kind Kind, folder *inode, name string) syscall.Errno {
	if _, errno := d.step(kind, path.Join(folder.path(), name), 0); errno != 0 {
		return errno
	}
	f := folder.entries[name]
	switch {
	case f == nil:
		return syscall.ENOENT
	case f.folder() && len(f.entries) > 0:
		return syscall.ENOTEMPTY
	}
	d.apply(naming{folder, name, nil})
	d.unnamed(f, folder)
	return 0
}

// unnamed is for a file that lost a name, and goes with the last one.
func (d *Disk) unnamed(f, folder *inode) {
	f.links--
	f.changed = d.last
	if f.folder() {
		f.links = 0
		folder.links--
	}
	d.free(f)
}

// free gives the space back of a file that has no name and nobody has open.
func (d *Disk) free(f *inode) {
	if f.links == 0 && f.open == 0 {
		d.files--
		d.used -= f.data.allocated() // the bytes stay: a cut may undo the removal
	}
}

// The flags of renameat2(2).
const noReplace = 1

func (d *Disk) rename(from *inode, name string, to *inode, newName string, flags uint32) syscall.Errno {
	if _, errno := d.step(Rename, path.Join(from.path(), name)+" to "+path.Join(to.path(), newName), 0); errno != 0 {
		return errno
	}
	f, old := from.entries[name], to.entries[newName]
	switch {
	case flags&^noReplace != 0:
		return syscall.EINVAL
	case f == nil:
		return syscall.ENOENT
	case old == nil || old == f:
	case flags == noReplace:
		return syscall.EEXIST
	case f.folder() != old.folder():
		return map[bool]syscall.Errno{true: syscall.ENOTDIR, false: syscall.EISDIR}[f.folder()]
	case len(old.entries) > 0:
		return syscall.ENOTEMPTY
	}
	if f == old {
		return 0
	}
	d.apply(naming{from, name, nil}, naming{to, newName, f})
	if old != nil {
		d.unnamed(old, to)
	}
	if f.folder() {
		from.links--
		to.links++
	}
	return 0
}

// write gives how much was written: less than all when the disk gets full.
func (d *Disk) write(f *inode, p []byte, offset int64) (int, syscall.Errno) {
	allowed, errno := d.step(Write, f.path(), len(p))
	if errno != 0 {
		return 0, errno
	}
	p = p[:allowed]
	for len(p) > 0 && f.data.missing(offset, int64(len(p))) > d.room() {
		p = p[:max(0, (offset+int64(len(p))-1)/blockSize*blockSize-offset)]
	}
	if len(p) == 0 && allowed > 0 {
		return 0, syscall.ENOSPC
	}
	if d.options.NoSparse {
		return len(p), d.alter(f, func() { f.data.write(p, offset) })
	}
	before := f.data.allocated()
	f.data.write(p, offset)
	d.altered(f, before)
	return len(p), 0
}

// altered counts the space and sets the times.
func (d *Disk) altered(f *inode, before int64) {
	d.take(f.data.allocated() - before)
	now := d.now()
	f.changed, f.modified = now, now
}

// alter changes a file's content, or does nothing where the disk gets full.
// Without sparse files the whole length takes space.
func (d *Disk) alter(f *inode, how func()) syscall.Errno {
	before := f.data.clone()
	how()
	if d.options.NoSparse {
		f.data.allocate(0, f.data.size)
	}
	if f.data.allocated()-before.allocated() > d.room() {
		f.data = before
		return syscall.ENOSPC
	}
	d.altered(f, before.allocated())
	return 0
}

func (d *Disk) resize(f *inode, size int64) syscall.Errno {
	if _, errno := d.step(Resize, f.path(), 0); errno != 0 {
		return errno
	}
	return d.alter(f, func() { f.data.resize(size) })
}

// The modes of fallocate(2).
const (
	keepSize  = 1
	punchHole = 2
	zeroRange = 0x10
)

func (d *Disk) allocate(f *inode, offset, length int64, mode uint32) syscall.Errno {
	if _, errno := d.step(Allocate, f.path(), 0); errno != 0 {
		return errno
	}
	if mode&^(keepSize|punchHole|zeroRange) != 0 || d.options.NoSparse && mode&punchHole != 0 {
		return syscall.EOPNOTSUPP
	}
	return d.alter(f, func() {
		if mode&(punchHole|zeroRange) != 0 {
			f.data.punch(offset, length)
		}
		if mode&punchHole == 0 {
			f.data.allocate(offset, length)
		}
		if mode&keepSize == 0 {
			f.data.size = max(f.data.size, offset+length)
		}
	})
}

// setting is a change of attributes; nil stays.
type setting struct {
	mode, owner, group *uint32
	modified           *time.Time
}

func (s setting) empty() bool { return s == setting{} }

func (d *Disk) set(f *inode, s setting) syscall.Errno {
	if _, errno := d.step(Attribute, f.path(), 0); errno != 0 {
		return errno
	}
	if s.mode != nil {
		f.mode = f.mode&syscall.S_IFMT | *s.mode&0o7777
	}
	if s.owner != nil {
		f.owner = *s.owner
	}
	if s.group != nil {
		f.group = *s.group
	}
	if s.modified != nil {
		f.modified = *s.modified
	}
	f.changed = d.now()
	return 0
}

func (d *Disk) sync(f *inode) syscall.Errno {
	kind := Sync
	if f.folder() {
		kind = SyncFolder
	}
	if _, errno := d.step(kind, f.path(), 0); errno != 0 {
		return errno
	}
	if f.folder() {
		d.syncFolder(f)
	} else {
		f.sync()
	}
	return 0
}
