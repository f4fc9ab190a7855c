package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

const (
	extentMagic = 0xF30A
	extentSize  = 12
	maxDepth    = 5
	// maxExtents bounds what one file may reserve. A file of 256 GiB in the longest
	// possible extents has 2048.
	maxExtents = 1 << 20
	// maxNodes bounds how many blocks of the tree are read, which may all be empty.
	maxNodes = 1 << 16
	// longest is the longest extent; above it the blocks are reserved and not written.
	longest = 32768
)

// extent is a run of a file's blocks.
type extent struct {
	first, count int64  // blocks of the file
	start        uint64 // block of the file system
}

// content is a file's bytes.
type content struct {
	fs      *FS
	size    int64
	extents []extent
	nodes   int // of the tree, read so far
}

// content finds the blocks of a file.
func (f *FS) content(n inode) (*content, error) {
	if n.flags&extentsFlag == 0 {
		return nil, fmt.Errorf("%w: inode %d has no extents", ErrFormat, n.number)
	}
	c := &content{fs: f, size: n.size}
	if err := c.collect(n.place, maxDepth+1); err != nil {
		return nil, fmt.Errorf("inode %d: %w", n.number, err)
	}
	slices.SortFunc(c.extents, func(a, b extent) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(c.extents); i++ {
		if before := c.extents[i-1]; before.first+before.count > c.extents[i].first {
			return nil, fmt.Errorf("%w: inode %d: its extents overlap", ErrFormat, n.number)
		}
	}
	return c, nil
}

// collect reads one node of the tree of extents, whose depth only falls.
func (c *content) collect(node []byte, above int) error {
	le := binary.LittleEndian
	entries, depth := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	switch {
	case le.Uint16(node) != extentMagic, (entries+1)*extentSize > len(node):
		return fmt.Errorf("%w: a node of extents", ErrFormat)
	case depth >= above, c.nodes == maxNodes:
		return fmt.Errorf("%w: the tree of extents does not end", ErrFormat)
	}
	c.nodes++
	for i := range entries {
		entry := node[(i+1)*extentSize:]
		if depth == 0 {
			if err := c.add(entry); err != nil {
				return err
			}
			continue
		}
		block := uint64(le.Uint32(entry[4:])) | uint64(le.Uint16(entry[8:]))<<32
		child := make([]byte, c.fs.block)
		if err := c.fs.readBlock(block, child); err != nil {
			return err
		}
		if err := c.collect(child, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *content) add(entry []byte) error {
	le := binary.LittleEndian
	e := extent{
		first: int64(le.Uint32(entry)), count: int64(le.Uint16(entry[4:])),
		start: uint64(le.Uint32(entry[8:])) | uint64(le.Uint16(entry[6:]))<<32,
	}
	if e.count > longest {
		return nil // reserved only: it reads as zeros
	}
	if e.start+uint64(e.count) > c.fs.blocks || len(c.extents) == maxExtents {
		return fmt.Errorf("%w: an extent lies outside, or there are too many", ErrFormat)
	}
	c.extents = append(c.extents, e)
	return nil
}

// ReadAt reads bytes of the file; holes are zeros.
func (c *content) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, fmt.Errorf("read at %d", at)
	}
	if left := c.size - at; left < int64(len(p)) {
		if left <= 0 {
			return 0, io.EOF
		}
		p, err = p[:left], io.EOF
	}
	for n < len(p) {
		k, err := c.piece(p[n:], at+int64(n))
		if n += k; err != nil {
			return n, err
		}
	}
	return n, err
}

// piece reads as much as lies in one extent, or in one hole.
func (c *content) piece(p []byte, at int64) (int, error) {
	block := at / c.fs.block
	i, found := slices.BinarySearchFunc(c.extents, block, func(e extent, block int64) int {
		switch {
		case e.first+e.count <= block:
			return -1
		case e.first > block:
			return 1
		}
		return 0
	})
	if !found {
		end := c.size
		if i < len(c.extents) {
			end = c.extents[i].first * c.fs.block
		}
		n := int(min(int64(len(p)), end-at))
		if n <= 0 { // an extent behind the end
			n = len(p)
		}
		clear(p[:n])
		return n, nil
	}
	e := c.extents[i]
	p = p[:min(int64(len(p)), (e.first+e.count)*c.fs.block-at)]
	return c.fs.image.ReadAt(p, int64(e.start)*c.fs.block+at-e.first*c.fs.block)
}

func (f *FS) readBlock(number uint64, into []byte) error {
	if number >= f.blocks {
		return fmt.Errorf("%w: block %d lies outside", ErrFormat, number)
	}
	if _, err := f.image.ReadAt(into, int64(number)*f.block); err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrFormat, number, err)
	}
	return nil
}
