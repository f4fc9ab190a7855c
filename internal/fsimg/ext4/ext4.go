// Package ext4 reads ext4 file systems out of image files, without mounting them:
// layers as the guest's packer writes them, and whatever mkfs.ext4 makes that
// uses extents and has no journal to recover.
//
// Input is an image, which need not be well made: every number in it is checked
// before it is used, and what this reader does not know is refused by name.
// Output are names, bytes and numbers. Nothing is written anywhere.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrFormat is wrapped by every error that says that the image is not a file
// system of this kind, or is damaged.
var ErrFormat = errors.New("not an ext4 file system that can be read")

// Places in the file system's description, from the kernel's
// Documentation/filesystems/ext4.
const (
	superAt     = 1024
	superSize   = 1024
	superMagic  = 0xEF53
	rootInode   = 2
	maxShift    = 5 // of blocks beyond 1 KiB: 32 KiB
	maxInode    = 4096
	maxGroups   = 1 << 20
	inodeUnit   = 512 // of i_blocks
	goodInode   = 128 // bytes that every inode has
	hugeFile    = 0x40000
	extentsFlag = 0x80000
	oddFlags    = 0x10000800 // encrypted, or data in the inode
)

// Features that change what the structures mean. Others of the incompatible ones
// are refused.
const (
	featureFiletype = 0x2
	featureExtents  = 0x40
	feature64Bit    = 0x80
	featureFlexible = 0x200
	featureCsumSeed = 0x2000
	featureLargeDir = 0x4000
	known           = featureFiletype | featureExtents | feature64Bit | featureFlexible | featureCsumSeed | featureLargeDir
)

// FS is a file system in an image. Several goroutines may use it where they may
// use the image's ReadAt.
type FS struct {
	image     io.ReaderAt
	block     int64
	blocks    uint64
	free      uint64
	inodes    uint32
	spare     uint32 // unused inodes
	perGroup  uint32 // inodes
	inodeSize int64
	tables    []uint64 // first block of each group's inode table
}

// Usage is what a file system takes and has left.
type Usage struct {
	Size       int64 // bytes of all blocks
	Free       int64 // bytes of blocks that nothing uses
	BlockSize  int64
	Inodes     int64
	FreeInodes int64
}

// Open reads the description of the file system that begins at the image's start.
func Open(image io.ReaderAt) (*FS, error) {
	super := make([]byte, superSize)
	if _, err := image.ReadAt(super, superAt); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	f := &FS{image: image}
	if err := f.readSuper(super); err != nil {
		return nil, err
	}
	return f, f.readGroups(super)
}

// Usage says how much room there is.
func (f *FS) Usage() Usage {
	return Usage{
		Size: int64(f.blocks) * f.block, Free: int64(f.free) * f.block, BlockSize: f.block,
		Inodes: int64(f.inodes), FreeInodes: int64(f.spare),
	}
}

func (f *FS) readSuper(s []byte) error {
	le := binary.LittleEndian
	if le.Uint16(s[0x38:]) != superMagic {
		return fmt.Errorf("%w: no magic number", ErrFormat)
	}
	incompatible := le.Uint32(s[0x60:])
	if unknown := incompatible &^ uint32(known); unknown != 0 || incompatible&featureExtents == 0 {
		return fmt.Errorf("%w: its features are %#x", ErrFormat, incompatible)
	}
	shift := le.Uint32(s[0x18:])
	if shift > maxShift {
		return fmt.Errorf("%w: blocks of 2^(10+%d) bytes", ErrFormat, shift)
	}
	f.block = 1024 << shift
	f.blocks, f.free = uint64(le.Uint32(s[4:])), uint64(le.Uint32(s[0xC:]))
	if incompatible&feature64Bit != 0 {
		f.blocks |= uint64(le.Uint32(s[0x150:])) << 32
		f.free |= uint64(le.Uint32(s[0x158:])) << 32
	}
	f.inodes, f.spare, f.perGroup = le.Uint32(s[0:]), le.Uint32(s[0x10:]), le.Uint32(s[0x28:])
	f.inodeSize = int64(le.Uint16(s[0x58:]))
	switch {
	case f.inodeSize < goodInode || f.inodeSize > maxInode || f.inodeSize&(f.inodeSize-1) != 0:
		return fmt.Errorf("%w: inodes of %d bytes", ErrFormat, f.inodeSize)
	case f.perGroup == 0 || f.blocks == 0 || f.blocks > 1<<48 || f.free > f.blocks || f.spare > f.inodes:
		return fmt.Errorf("%w: its sizes make no sense", ErrFormat)
	}
	return nil
}

// readGroups finds the inode tables.
func (f *FS) readGroups(s []byte) error {
	le := binary.LittleEndian
	size := int64(32)
	if le.Uint32(s[0x60:])&feature64Bit != 0 {
		if size = int64(le.Uint16(s[0xFE:])); size < 64 || size > 1024 {
			return fmt.Errorf("%w: group descriptors of %d bytes", ErrFormat, size)
		}
	}
	groups := (int64(f.inodes) + int64(f.perGroup) - 1) / int64(f.perGroup)
	if groups < 1 || groups > maxGroups {
		return fmt.Errorf("%w: %d groups", ErrFormat, groups)
	}
	at := (int64(le.Uint32(s[0x14:])) + 1) * f.block // behind the block of the description
	raw := make([]byte, size)
	for i := range groups {
		if _, err := f.image.ReadAt(raw, at+i*size); err != nil {
			return fmt.Errorf("%w: group %d: %w", ErrFormat, i, err)
		}
		table := uint64(le.Uint32(raw[8:]))
		if size >= 64 {
			table |= uint64(le.Uint32(raw[0x28:])) << 32
		}
		if table >= f.blocks {
			return fmt.Errorf("%w: group %d: its inodes lie outside", ErrFormat, i)
		}
		f.tables = append(f.tables, table)
	}
	return nil
}

// inode is one file of whatever kind.
type inode struct {
	number uint32
	mode   uint16 // as in stat
	size   int64
	links  uint16
	taken  int64 // bytes of blocks
	flags  uint32
	place  []byte // i_block
	raw    []byte
}

// inode reads one by its number.
func (f *FS) inode(number uint32) (inode, error) {
	if number == 0 || number > f.inodes {
		return inode{}, fmt.Errorf("%w: there is no inode %d", ErrFormat, number)
	}
	group, index := (number-1)/f.perGroup, (number-1)%f.perGroup
	raw := make([]byte, f.inodeSize)
	if _, err := f.image.ReadAt(raw, int64(f.tables[group])*f.block+int64(index)*f.inodeSize); err != nil {
		return inode{}, fmt.Errorf("%w: inode %d: %w", ErrFormat, number, err)
	}
	le := binary.LittleEndian
	n := inode{
		number: number, mode: le.Uint16(raw), links: le.Uint16(raw[0x1A:]), flags: le.Uint32(raw[0x20:]),
		size:  int64(le.Uint32(raw[4:])) | int64(le.Uint32(raw[0x6C:]))<<32,
		place: raw[0x28:0x64], raw: raw,
	}
	n.taken = int64(le.Uint32(raw[0x1C:])) | int64(le.Uint16(raw[0x74:]))<<32
	if n.taken *= inodeUnit; n.flags&hugeFile != 0 {
		n.taken = n.taken / inodeUnit * f.block
	}
	if n.size < 0 || n.flags&oddFlags != 0 {
		return inode{}, fmt.Errorf("%w: inode %d: size %d, flags %#x", ErrFormat, number, n.size, n.flags)
	}
	return n, nil
}
