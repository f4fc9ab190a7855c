package unpack

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Bounds of an index. 256 GiB in frames of 8 MiB are 32768 frames of about 220
// bytes, 7 MiB.
const (
	MaxIndex     = 16 << 20 // bytes of JSON
	indexSchema  = 1
	minFrameSize = 64 << 10
	maxFrameSize = FrameSize
	maxSize      = 256 << 30
)

// Index says where the frames of an archive are and what they hold. It is
// complete: with an index whose own digest is trusted, nothing else is needed to
// trust the expanded file.
type Index struct {
	Schema    int     `json:"schema"`
	FrameSize int64   `json:"frame_size"` // expanded bytes of every frame but the last, a multiple of 4096
	Size      int64   `json:"size"`       // of the expanded file, bytes
	Frames    []Frame `json:"frames"`     // in order, without gaps
}

// Frame is one independent piece. Its place in the expanded file is its number
// times Index.FrameSize.
type Frame struct {
	Offset     int64  `json:"offset"`            // in the archive, bytes
	Length     int64  `json:"length"`            // in the archive, bytes
	Compressed string `json:"compressed"`        // SHA-256 of those bytes
	Content    string `json:"content,omitempty"` // SHA-256 of the expanded bytes; empty with Zero
	Zero       bool   `json:"zero,omitempty"`    // expands to nothing but zero bytes
}

// ParseIndex reads an index and checks every value. Only the form that Encode
// writes is accepted, so that nothing in it can be read in two ways.
func ParseIndex(raw []byte) (Index, error) {
	if len(raw) > MaxIndex {
		return Index{}, fmt.Errorf("read frame index: %d bytes, at most %d are allowed", len(raw), MaxIndex)
	}
	var ix Index
	if err := json.Unmarshal(raw, &ix); err != nil {
		return Index{}, fmt.Errorf("read frame index: %w", err)
	}
	if err := ix.validate(); err != nil {
		return Index{}, fmt.Errorf("read frame index: %w", err)
	}
	canonical, err := ix.Encode()
	if err != nil {
		return Index{}, err
	}
	if !bytes.Equal(canonical, raw) {
		return Index{}, errors.New("read frame index: not in the form SmolVM writes")
	}
	return ix, nil
}

// Encode writes the index, one line per frame.
func (ix Index) Encode() ([]byte, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "{\"schema\":%d,\"frame_size\":%d,\"size\":%d,\"frames\":[\n", ix.Schema, ix.FrameSize, ix.Size)
	for i, frame := range ix.Frames {
		line, err := json.Marshal(frame)
		if err != nil {
			return nil, fmt.Errorf("write frame index: %w", err)
		}
		out.Write(line)
		if i < len(ix.Frames)-1 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
	}
	out.WriteString("]}\n")
	return out.Bytes(), nil
}

// ArchiveSize is the length of the archive in bytes.
func (ix Index) ArchiveSize() int64 {
	if len(ix.Frames) == 0 {
		return 0
	}
	last := ix.Frames[len(ix.Frames)-1]
	return last.Offset + last.Length
}

// DataSize is an upper bound of what the expanded file allocates, in bytes: all
// but the zero frames.
func (ix Index) DataSize() int64 {
	var n int64
	for i, frame := range ix.Frames {
		if !frame.Zero {
			n += ix.Length(i)
		}
	}
	return n
}

// Place is where frame i begins in the expanded file.
func (ix Index) Place(i int) int64 { return int64(i) * ix.FrameSize }

// Length is the expanded length of frame i.
func (ix Index) Length(i int) int64 { return min(ix.FrameSize, ix.Size-ix.Place(i)) }

// holds reports whether these are the expanded bytes of frame i.
func (ix Index) holds(i int, plain []byte) bool {
	switch frame := ix.Frames[i]; {
	case int64(len(plain)) != ix.Length(i):
		return false
	case frame.Zero:
		return isZero(plain)
	default:
		return hexDigest(sha256.Sum256(plain)) == frame.Content
	}
}

func (ix Index) validate() error {
	switch {
	case ix.Schema != indexSchema:
		return fmt.Errorf("schema %d, this program reads %d", ix.Schema, indexSchema)
	case ix.FrameSize < minFrameSize || ix.FrameSize > maxFrameSize || ix.FrameSize%block != 0:
		return fmt.Errorf("frame size %d is not a multiple of %d between %d and %d", ix.FrameSize, block, minFrameSize, maxFrameSize)
	case ix.Size < 1 || ix.Size > maxSize:
		return fmt.Errorf("size %d is not between 1 and %d", ix.Size, int64(maxSize))
	}
	if want := (ix.Size + ix.FrameSize - 1) / ix.FrameSize; int64(len(ix.Frames)) != want {
		return fmt.Errorf("%d frames, %d bytes need %d", len(ix.Frames), ix.Size, want)
	}
	var offset int64
	for i, frame := range ix.Frames {
		if frame.Offset != offset {
			return fmt.Errorf("frame %d: offset %d, expected %d", i, frame.Offset, offset)
		}
		if err := frame.validate(ix.Length(i)); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		offset += frame.Length
	}
	return nil
}

func (f Frame) validate(content int64) error {
	switch {
	case f.Length < 1 || f.Length > content+overhead:
		return fmt.Errorf("length %d is not between 1 and %d", f.Length, content+overhead)
	case !manifest.IsSHA256(f.Compressed):
		return fmt.Errorf("compressed %.80q is not a SHA-256", f.Compressed)
	case f.Zero && f.Content != "":
		return errors.New("a zero frame has no content digest")
	case !f.Zero && !manifest.IsSHA256(f.Content):
		return fmt.Errorf("content %.80q is not a SHA-256", f.Content)
	}
	return nil
}
