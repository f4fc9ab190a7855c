//go:build linux

package faultdisk

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file as FUSE knows it.
type node struct {
	fs.Inode
	disk *Disk
	file *inode
}

var (
	_ fs.NodeLookuper   = (*node)(nil)
	_ fs.NodeReaddirer  = (*node)(nil)
	_ fs.NodeCreater    = (*node)(nil)
	_ fs.NodeMkdirer    = (*node)(nil)
	_ fs.NodeMknoder    = (*node)(nil)
	_ fs.NodeSymlinker  = (*node)(nil)
	_ fs.NodeReadlinker = (*node)(nil)
	_ fs.NodeLinker     = (*node)(nil)
	_ fs.NodeUnlinker   = (*node)(nil)
	_ fs.NodeRmdirer    = (*node)(nil)
	_ fs.NodeRenamer    = (*node)(nil)
	_ fs.NodeGetattrer  = (*node)(nil)
	_ fs.NodeSetattrer  = (*node)(nil)
	_ fs.NodeStatfser   = (*node)(nil)
	_ fs.NodeOpener     = (*node)(nil)
	_ fs.NodeReader     = (*node)(nil)
	_ fs.NodeWriter     = (*node)(nil)
	_ fs.NodeFsyncer    = (*node)(nil)
	_ fs.NodeAllocater  = (*node)(nil)
	_ fs.NodeLseeker    = (*node)(nil)
	_ fs.NodeReleaser   = (*node)(nil)
)

// handle is one open file. The kernel keeps nothing of it in memory, so that each
// read and write gets here.
type handle struct{}

// lock takes the disk's lock until the returned function is called.
func (n *node) lock() func() {
	n.disk.mu.Lock()
	return n.disk.mu.Unlock
}

// show hands a file to the kernel.
func (n *node) show(ctx context.Context, f *inode, out *fuse.EntryOut) *fs.Inode {
	n.disk.tell(f, &out.Attr)
	return n.NewInode(ctx, &node{disk: n.disk, file: f}, fs.StableAttr{Mode: f.mode & syscall.S_IFMT, Ino: f.number, Gen: 1})
}

func (d *Disk) tell(f *inode, out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Rdev = f.number, f.mode, f.links, f.device
	out.Size, out.Blocks, out.Blksize = uint64(f.data.size), uint64(f.data.allocated()*(blockSize/sectorSize)), blockSize
	if f.target != "" {
		out.Size = uint64(len(f.target))
	}
	out.Owner = fuse.Owner{Uid: f.owner, Gid: f.group}
	out.SetTimes(&f.modified, &f.modified, &f.changed)
}

// Lookup finds a name.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	f := n.file.entries[name]
	if f == nil {
		return nil, syscall.ENOENT
	}
	return n.show(ctx, f, out), 0
}

// Readdir lists names.
func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	defer n.lock()()
	if _, errno := n.disk.step(ReadDir, n.file.path(), 0); errno != 0 {
		return nil, errno
	}
	var list []fuse.DirEntry
	for _, name := range n.file.names(false) {
		f := n.file.entries[name]
		list = append(list, fuse.DirEntry{Mode: f.mode, Name: name, Ino: f.number})
	}
	return fs.NewListDirStream(list), 0
}

// add makes a node for the process that asks.
func (n *node) add(ctx context.Context, kind Kind, name string, mode uint32, out *fuse.EntryOut) (*inode, *fs.Inode, syscall.Errno) {
	var owner fuse.Owner
	if caller, ok := fuse.FromContext(ctx); ok {
		owner = caller.Owner
	}
	f, errno := n.disk.add(kind, n.file, name, mode, owner.Uid, owner.Gid)
	if errno != 0 {
		return nil, nil, errno
	}
	return f, n.show(ctx, f, out), 0
}

// Create makes and opens a file.
func (n *node) Create(ctx context.Context, name string, _, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	defer n.lock()()
	f, shown, errno := n.add(ctx, Create, name, syscall.S_IFREG|mode&0o7777, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	f.open++
	return shown, &handle{}, fuse.FOPEN_DIRECT_IO, 0
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	_, shown, errno := n.add(ctx, Mkdir, name, folderMode|mode&0o7777, out)
	return shown, errno
}

// Mknod makes a file, FIFO or device.
func (n *node) Mknod(ctx context.Context, name string, mode, device uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	f, shown, errno := n.add(ctx, Create, name, mode, out)
	if errno == 0 {
		f.device, out.Rdev = device, device
	}
	return shown, errno
}

// Symlink makes a symbolic link.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	f, shown, errno := n.add(ctx, Create, name, syscall.S_IFLNK|0o777, out)
	if errno == 0 {
		f.target, out.Size = target, uint64(len(target))
		f.saved.target = target
	}
	return shown, errno
}

// Readlink reads a symbolic link.
func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) {
	defer n.lock()()
	return []byte(n.file.target), 0
}

// Link gives a file another name.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	defer n.lock()()
	f := target.(*node).file
	if errno := n.disk.link(f, n.file, name); errno != 0 {
		return nil, errno
	}
	return n.show(ctx, f, out), 0
}

// Unlink removes a name.
func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	defer n.lock()()
	return n.disk.remove(Unlink, n.file, name)
}

// Rmdir removes an empty folder.
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	defer n.lock()()
	return n.disk.remove(Rmdir, n.file, name)
}

// Rename moves a name.
func (n *node) Rename(_ context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	defer n.lock()()
	return n.disk.rename(n.file, name, to.(*node).file, newName, flags)
}

// Getattr tells size, times, mode.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	defer n.lock()()
	n.disk.tell(n.file, &out.Attr)
	return 0
}

// Setattr changes size, mode, owner, times.
func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	defer n.lock()()
	if size, ok := in.GetSize(); ok {
		if errno := n.disk.resize(n.file, int64(size)); errno != 0 {
			return errno
		}
	}
	if s := settingOf(in); !s.empty() {
		if errno := n.disk.set(n.file, s); errno != 0 {
			return errno
		}
	}
	n.disk.tell(n.file, &out.Attr)
	return 0
}

func settingOf(in *fuse.SetAttrIn) setting {
	var s setting
	if mode, ok := in.GetMode(); ok {
		s.mode = &mode
	}
	if owner, ok := in.GetUID(); ok {
		s.owner = &owner
	}
	if group, ok := in.GetGID(); ok {
		s.group = &group
	}
	if modified, ok := in.GetMTime(); ok {
		modified = modified.Round(time.Nanosecond)
		s.modified = &modified
	}
	return s
}

// Statfs tells the free space.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	defer n.lock()()
	d := n.disk
	if _, errno := d.step(StatDisk, n.file.path(), 0); errno != 0 {
		return errno
	}
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks = uint64(d.options.Capacity / blockSize)
	out.Bfree = out.Blocks - uint64(d.used)
	out.Bavail = out.Bfree
	out.Files = uint64(d.options.Files)
	out.Ffree = uint64(max(d.options.Files-d.files, 0))
	return 0
}

// Open opens a file.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	defer n.lock()()
	if _, errno := n.disk.step(Open, n.file.path(), 0); errno != 0 {
		return nil, 0, errno
	}
	if flags&syscall.O_TRUNC != 0 {
		if errno := n.disk.resize(n.file, 0); errno != 0 {
			return nil, 0, errno
		}
	}
	n.file.open++
	return &handle{}, fuse.FOPEN_DIRECT_IO, 0
}

// Release closes it.
func (n *node) Release(context.Context, fs.FileHandle) syscall.Errno {
	defer n.lock()()
	n.file.open--
	n.disk.free(n.file)
	return 0
}

// Read reads.
func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	defer n.lock()()
	if _, errno := n.disk.step(Read, n.file.path(), 0); errno != 0 {
		return nil, errno
	}
	return fuse.ReadResultData(dest[:n.file.data.read(dest, offset)]), 0
}

// Write writes.
func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	defer n.lock()()
	done, errno := n.disk.write(n.file, data, offset)
	return uint32(done), errno
}

// Fsync makes a file or folder durable.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	defer n.lock()()
	return n.disk.sync(n.file)
}

// Allocate takes space or makes holes.
func (n *node) Allocate(_ context.Context, _ fs.FileHandle, offset, size uint64, mode uint32) syscall.Errno {
	defer n.lock()()
	return n.disk.allocate(n.file, int64(offset), int64(size), mode)
}

// Lseek finds data and holes. A disk without sparse files is all data.
func (n *node) Lseek(_ context.Context, _ fs.FileHandle, offset uint64, whence uint32) (uint64, syscall.Errno) {
	defer n.lock()()
	at, errno := n.file.data.seek(int64(offset), whence)
	return uint64(at), errno
}
