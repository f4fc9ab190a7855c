package unpack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// Writer expands frames of one archive into one file: in any order, from any
// number of goroutines, each frame by one at a time. After an error the file
// holds something incomplete that Missing tells apart.
type Writer struct {
	decoder *Decoder
	index   Index
	dst     *os.File
	punch   func(file *os.File, at, length int64) error // deallocates; errors.ErrUnsupported: cannot
	// direct is dst again, past the page cache, and the Decoder's to close; nil
	// where that cannot be had.
	direct  io.WriterAt
	refused atomic.Bool // a direct write was, as one that this file cannot do
}

// NewWriter gives dst the size of the expanded file and keeps what it holds: an
// earlier run's frames, which Missing finds. Nothing is allocated.
func NewWriter(d *Decoder, ix Index, dst *os.File) (*Writer, error) {
	if err := ix.validate(); err != nil {
		return nil, fmt.Errorf("expand: %w", err)
	}
	info, err := dst.Stat()
	if err != nil {
		return nil, fmt.Errorf("expand: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("expand: %s is not a regular file", dst.Name())
	}
	if info.Size() != ix.Size {
		if err := dst.Truncate(ix.Size); err != nil {
			return nil, fmt.Errorf("expand: %w", err)
		}
	}
	w := &Writer{decoder: d, index: ix, dst: dst, punch: punch}
	if direct := openDirect(dst); direct != nil {
		d.own(direct)
		w.direct = direct
	}
	return w, nil
}

// Packed writes frame i from its bytes in the archive. Their digest is checked
// before anything decodes them. data is not kept.
func (w *Writer) Packed(ctx context.Context, i int, data []byte) error {
	frame := w.index.Frames[i]
	if int64(len(data)) != frame.Length {
		return fmt.Errorf("frame %d, %d bytes instead of %d at %d: %w", i, len(data), frame.Length, frame.Offset, ErrDigest)
	}
	if frame.Zero {
		return w.packedZero(ctx, i, data)
	}
	plain, err := w.decoder.take(ctx, w.index.Length(i))
	if err != nil {
		return fmt.Errorf("frame %d: %w", i, err)
	}
	defer w.decoder.give(plain)
	if hexDigest(sha256.Sum256(data)) != frame.Compressed {
		return fmt.Errorf("frame %d, %d bytes at %d: %w", i, frame.Length, frame.Offset, ErrDigest)
	}
	if err := w.decoder.decode(data, plain, w.index.FrameSize); err != nil {
		return fmt.Errorf("frame %d: %w", i, err)
	}
	return w.write(i, plain)
}

// packedZero checks a frame that is not decoded: of a stream, every byte counts.
func (w *Writer) packedZero(ctx context.Context, i int, data []byte) error {
	frame := w.index.Frames[i]
	if hexDigest(sha256.Sum256(data)) != frame.Compressed {
		return fmt.Errorf("frame %d, %d bytes at %d: %w", i, frame.Length, frame.Offset, ErrDigest)
	}
	return w.Zero(ctx, i)
}

// Plain writes frame i from its expanded bytes, which came from elsewhere; their
// digest is checked first. data is not kept.
func (w *Writer) Plain(ctx context.Context, i int, data []byte) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !w.index.holds(i, data) {
		return fmt.Errorf("frame %d, expanded: %w", i, ErrDigest)
	}
	if w.index.Frames[i].Zero {
		return w.Zero(ctx, i)
	}
	return w.write(i, data)
}

// Zero makes frame i a hole. It costs nothing where it is one.
func (w *Writer) Zero(ctx context.Context, i int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := w.clear(w.index.Place(i), w.index.Length(i)); err != nil {
		return fmt.Errorf("frame %d: %w", i, err)
	}
	return nil
}

// write puts a frame into the file.
func (w *Writer) write(i int, plain []byte) error {
	if err := w.writeSparse(plain, w.index.Place(i)); err != nil {
		return fmt.Errorf("frame %d: %w", i, err)
	}
	return nil
}
