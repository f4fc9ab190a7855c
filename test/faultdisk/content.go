//go:build linux

package faultdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
)

// blockSize is what space is given out in, sectorSize what a disk writes as a whole.
const (
	blockSize  = 4096
	sectorSize = 512
)

// block is never changed once it is part of a content.
type block [blockSize]byte

// content is the bytes of a file. A block that is not there is a hole.
type content struct {
	size   int64
	blocks map[int64]*block
}

func (c content) allocated() int64 { return int64(len(c.blocks)) }

func (c content) clone() content { return content{c.size, maps.Clone(c.blocks)} }

// read fills p from an offset and gives how much there was.
func (c content) read(p []byte, offset int64) int {
	if offset >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-offset)]
	for done := 0; done < len(p); {
		at := offset + int64(done)
		part := p[done:min(len(p), done+int(blockSize-at%blockSize))]
		if b := c.blocks[at/blockSize]; b != nil {
			copy(part, b[at%blockSize:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p)
}

func (c *content) write(p []byte, offset int64) {
	if c.blocks == nil {
		c.blocks = map[int64]*block{}
	}
	for done := 0; done < len(p); {
		at := offset + int64(done)
		fresh := new(block)
		if old := c.blocks[at/blockSize]; old != nil {
			*fresh = *old
		}
		done += copy(fresh[at%blockSize:], p[done:])
		c.blocks[at/blockSize] = fresh
	}
	c.size = max(c.size, offset+int64(len(p)))
}

// resize cuts the content or adds a hole.
func (c *content) resize(size int64) {
	if size < c.size {
		c.punch(size, c.size-size+blockSize)
	}
	c.size = size
}

// punch makes a range a hole; parts of blocks become zeros.
func (c *content) punch(offset, length int64) {
	end := offset + length
	for n, old := range maps.Clone(c.blocks) {
		from, to := max(offset-n*blockSize, 0), min(end-n*blockSize, blockSize)
		switch {
		case from >= to:
		case from == 0 && to == blockSize:
			delete(c.blocks, n)
		default:
			fresh := *old
			clear(fresh[from:to])
			c.blocks[n] = &fresh
		}
	}
}

// allocate takes space for a range without changing what it reads as.
func (c *content) allocate(offset, length int64) {
	if c.blocks == nil {
		c.blocks = map[int64]*block{}
	}
	for n := offset / blockSize; n*blockSize < offset+length; n++ {
		if c.blocks[n] == nil {
			c.blocks[n] = new(block)
		}
	}
}

// missing is how many blocks of a range have no space yet.
func (c content) missing(offset, length int64) int64 {
	var count int64
	for n := offset / blockSize; n*blockSize < offset+length; n++ {
		if c.blocks[n] == nil {
			count++
		}
	}
	return count
}

// The values of whence that lseek(2) has for sparse files.
const (
	seekData = 3
	seekHole = 4
)

// seek finds the next data or hole.
func (c content) seek(offset int64, whence uint32) (int64, syscall.Errno) {
	if offset >= c.size {
		return 0, syscall.ENXIO
	}
	for at := offset; at < c.size; at = (at/blockSize + 1) * blockSize {
		if (c.blocks[at/blockSize] != nil) == (whence == seekData) {
			return at, 0
		}
	}
	if whence == seekHole {
		return c.size, 0
	}
	return 0, syscall.ENXIO
}

// mixed is what a cut leaves of a file with unsynced writes: its old or its new
// length, each block old, new, or written in part.
func mixed(old, fresh content, dice *rand.Rand, chance float64) content {
	result := old.clone()
	if dice.Float64() < chance {
		result.resize(fresh.size)
	}
	for _, n := range numbers(old, fresh) {
		if old.blocks[n] == fresh.blocks[n] || n*blockSize >= result.size || dice.Float64() >= chance {
			continue
		}
		result.put(n, torn(old.blocks[n], fresh.blocks[n], dice))
	}
	return result
}

// numbers lists the blocks of two contents in order, for equal dice to mean equal cuts.
func numbers(contents ...content) []int64 {
	var all []int64
	for _, c := range contents {
		all = slices.AppendSeq(all, maps.Keys(c.blocks))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (c *content) put(n int64, b *block) {
	switch {
	case b == nil:
		delete(c.blocks, n)
	case c.blocks == nil:
		c.blocks = map[int64]*block{n: b}
	default:
		c.blocks[n] = b
	}
}

// torn is the new block, or one time in eight only its first sectors.
func torn(old, fresh *block, dice *rand.Rand) *block {
	if dice.IntN(8) != 0 {
		return fresh
	}
	part := new(block)
	if old != nil {
		*part = *old
	}
	if fresh == nil {
		fresh = new(block)
	}
	copy(part[:dice.IntN(blockSize/sectorSize)*sectorSize], fresh[:])
	return part
}
