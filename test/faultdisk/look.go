//go:build linux

package faultdisk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"path"
	"syscall"
)

// Sight is what there is at one path.
type Sight struct {
	Mode      fs.FileMode
	Size      int64
	Allocated int64
	Inode     uint64 // equal for the names of one file
	Digest    string // of a regular file's bytes, as Digest makes it
	Target    string // of a symbolic link
}

// Look shows everything that programs see now, by its path below the disk's root.
func (d *Disk) Look() map[string]Sight {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]Sight{}
	d.root.look("", all)
	return all
}

func (f *inode) look(at string, all map[string]Sight) {
	for name, child := range f.entries {
		sight := Sight{
			Mode: child.fileMode(), Size: child.data.size, Allocated: child.data.allocated() * blockSize,
			Inode: child.number, Target: child.target,
		}
		if sight.Mode.IsRegular() {
			sight.Digest = child.data.digest()
		}
		all[path.Join(at, name)] = sight
		child.look(path.Join(at, name), all)
	}
}

func (f *inode) fileMode() fs.FileMode {
	mode := fs.FileMode(f.mode & 0o777)
	switch f.mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return mode
	case syscall.S_IFDIR:
		return mode | fs.ModeDir
	case syscall.S_IFLNK:
		return mode | fs.ModeSymlink
	}
	return mode | fs.ModeIrregular
}

// Digest is a short name for bytes. It costs nothing for zeros.
func Digest(data []byte) string {
	var c content
	c.write(data, 0)
	return c.digest()
}

func (c content) digest() string {
	hash := sha256.New()
	number := binary.LittleEndian.AppendUint64(nil, uint64(c.size))
	hash.Write(number)
	for _, n := range numbers(c) {
		if b := c.blocks[n]; *b != (block{}) {
			hash.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
			hash.Write(b[:])
		}
	}
	return hex.EncodeToString(hash.Sum(nil))
}
