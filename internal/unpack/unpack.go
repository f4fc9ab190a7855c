// Package unpack is the archive format of SmolVM: a disk image cut into frames
// of a fixed expanded size, each compressed on its own, one after the other in
// a file that the ordinary `zstd -d` expands too, and an index that names every
// frame's place and digests.
//
// Compress makes both. A Writer turns frames, in any order and on all cores, into
// a sparse file again; no decoder sees a byte whose digest was not checked, and
// the memory of all Writers of a Decoder together is bounded. Expand does it for
// a whole archive that streams by. Verify compares an expanded file with the
// index.
//
// The room writes only to the file it is handed and makes nothing durable: after
// a crash that file holds some of the frames, and Writer.Missing tells which.
package unpack

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

const (
	// FrameSize is how much of the file one frame of Compress holds, in bytes:
	// large enough to cost under 1 % in compression, small enough that a cut
	// connection loses little and that a few of them fit in memory.
	FrameSize = 8 << 20
	// block is the unit of holes: zero blocks of this size are not written.
	block = 4 << 10
	// memory bounds the buffers of one call, in bytes, however many cores there are.
	memory = 160 << 20
	// overhead is what a frame may need beyond its content: zstd's bound for
	// incompressible data is content/256 and a few headers.
	overhead = 64 << 10
)

var (
	// ErrDigest is wrapped by every error that says that bytes are not the
	// promised ones.
	ErrDigest = errors.New("digest mismatch")
	// ErrFormat is wrapped by every error that says that the promised bytes are
	// not what this format holds: the publisher's mistake.
	ErrFormat = errors.New("not a frame of this format")
)

// The zstd format (RFC 8878) of a frame of zeros, written by hand because no
// encoder is asked for run-length blocks: magic, descriptor (4-byte content
// size, single segment, no checksum), size, then blocks of at most 128 KiB.
const (
	frameMagic      = 0xFD2FB528
	frameDescriptor = 0b10_1_00000
	blockLimit      = 128 << 10
	blockLast       = 1
	blockRunLength  = 1 << 1
)

// zeroFrame is a zstd frame that expands to size zero bytes: 4 bytes for every
// 128 KiB.
func zeroFrame(size int) []byte {
	out := binary.LittleEndian.AppendUint32(nil, frameMagic)
	out = append(out, frameDescriptor)
	out = binary.LittleEndian.AppendUint32(out, uint32(size))
	for size > 0 {
		n := min(size, blockLimit)
		size -= n
		head := uint32(n)<<3 | blockRunLength
		if size == 0 {
			head |= blockLast
		}
		out = append(out, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	return out
}

// checkHeader refuses what a frame of this format never is, before the decoder
// reserves anything: skippable, with a dictionary, without or with another
// content size, with a window larger than the frame.
func checkHeader(frame []byte, size, window int64) error {
	var header zstd.Header
	if err := header.Decode(frame); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	switch {
	case header.Skippable:
		return fmt.Errorf("%w: skippable", ErrFormat)
	case header.DictionaryID != 0:
		return fmt.Errorf("%w: needs a dictionary", ErrFormat)
	case !header.HasFCS || header.FrameContentSize != uint64(size):
		return fmt.Errorf("%w: it holds %d bytes instead of %d", ErrFormat, header.FrameContentSize, size)
	case !header.SingleSegment && header.WindowSize > uint64(window):
		return fmt.Errorf("%w: its window has %d bytes, at most %d are allowed", ErrFormat, header.WindowSize, window)
	}
	return nil
}

func hexDigest(sum [32]byte) string { return hex.EncodeToString(sum[:]) }
