package unpack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Expand reads an archive from its first byte to its last and writes the file
// it holds to dst, which must be empty and is made sparse: zero blocks of 4 KiB
// stay holes. Every frame's digest is checked before it is decoded. Progress is
// called, by one goroutine, with the number of archive bytes read so far; it may
// be nil. After an error dst holds something incomplete.
//
// Cancelling ctx ends the work at the next frame; a caller whose reader can
// block for longer cancels the reader too.
func Expand(ctx context.Context, archive io.Reader, ix Index, dst *os.File, progress func(n int64)) error {
	if err := ix.validate(); err != nil {
		return fmt.Errorf("expand: %w", err)
	}
	if err := prepare(dst, ix.Size); err != nil {
		return fmt.Errorf("expand: %w", err)
	}
	n := workers(ix.FrameSize)
	decoder, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(n),
		zstd.WithDecoderMaxWindow(uint64(ix.FrameSize)),
		zstd.WithDecoderMaxMemory(uint64(ix.FrameSize)),
		zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(true)) // SHA-256 has been checked
	if err != nil {
		return fmt.Errorf("expand: %w", err)
	}
	defer decoder.Close()
	e := expander{index: ix, dst: dst, decoder: decoder, free: make(chan []byte, n+1)}
	if err := e.run(ctx, counted{archive, progress, new(int64)}, n); err != nil {
		return fmt.Errorf("expand: %w", err)
	}
	return nil
}

// prepare gives dst its final size without allocating anything.
func prepare(dst *os.File, size int64) error {
	info, err := dst.Stat()
	if err != nil {
		return err
	}
	if info.Size() != 0 {
		return fmt.Errorf("%s is not empty", dst.Name())
	}
	return dst.Truncate(size)
}

type expander struct {
	index   Index
	dst     *os.File
	decoder *zstd.Decoder
	free    chan []byte // buffers of compressed frames; their number bounds the memory
}

type packed struct {
	number int
	data   []byte
}

// run reads in this goroutine and decodes in n others. A goroutine's failure
// cancels ctx for all and is what is returned.
func (e *expander) run(ctx context.Context, archive io.Reader, n int) error {
	for range cap(e.free) {
		e.free <- nil
	}
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan packed)
	for range n {
		group.Go(func() error { return e.decode(work) })
	}
	group.Go(func() error {
		defer close(work)
		return e.read(ctx, archive, work)
	})
	return group.Wait()
}

func (e *expander) read(ctx context.Context, archive io.Reader, work chan<- packed) error {
	for i, frame := range e.index.Frames {
		var buffer []byte
		select {
		case buffer = <-e.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if int64(cap(buffer)) < frame.Length {
			buffer = make([]byte, frame.Length)
		}
		buffer = buffer[:frame.Length]
		if got, err := io.ReadFull(archive, buffer); err != nil {
			return truncated(err, frame.Offset+int64(got), e.index.ArchiveSize())
		}
		select {
		case work <- packed{i, buffer}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return atEnd(archive)
}

// truncated keeps the reader's own reason where it gave one.
func truncated(err error, got, want int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF { // of ReadFull: the reader itself ended cleanly
		return fmt.Errorf("the archive ends after %d of %d bytes: %w", got, want, io.ErrUnexpectedEOF)
	}
	return err
}

func atEnd(archive io.Reader) error {
	switch n, err := io.ReadFull(archive, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("bytes after the end of the archive: %w", ErrDigest)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("after the end of the archive: %w", err)
	}
	return nil
}

// decode handles frames until there are no more or one is wrong. Its buffer for
// expanded bytes is used again for every frame.
func (e *expander) decode(work <-chan packed) error {
	plain := make([]byte, 0, e.index.FrameSize)
	for next := range work {
		frame := e.index.Frames[next.number]
		if hexDigest(sha256.Sum256(next.data)) != frame.Compressed {
			return fmt.Errorf("frame %d, %d bytes at %d: %w", next.number, frame.Length, frame.Offset, ErrDigest)
		}
		if !frame.Zero {
			if err := e.write(next, plain); err != nil {
				return fmt.Errorf("frame %d: %w", next.number, err)
			}
		}
		e.free <- next.data
	}
	return nil
}

func (e *expander) write(next packed, plain []byte) error {
	size := e.index.length(next.number)
	if err := checkHeader(next.data, size, e.index.FrameSize); err != nil {
		return err
	}
	plain, err := e.decoder.DecodeAll(next.data, plain[:0:size])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if int64(len(plain)) != size {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrFormat, len(plain), size)
	}
	return writeSparse(e.dst, plain, int64(next.number)*e.index.FrameSize)
}

// writeSparse writes the runs of blocks that hold anything.
func writeSparse(dst io.WriterAt, data []byte, at int64) error {
	for start := 0; start < len(data); {
		end := start
		for end < len(data) && !isZero(data[end:min(end+block, len(data))]) {
			end = min(end+block, len(data))
		}
		if end > start {
			if _, err := dst.WriteAt(data[start:end], at+int64(start)); err != nil {
				return fmt.Errorf("write %d bytes at %d: %w", end-start, at+int64(start), err)
			}
		}
		start = end + block // the block at end is zero, or the data has ended
	}
	return nil
}

// counted reports how far a reader has come.
type counted struct {
	io.Reader
	report func(n int64)
	read   *int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	*c.read += int64(n)
	if n > 0 && c.report != nil {
		c.report(*c.read)
	}
	return n, err
}
