package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

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
	info, err := dst.Stat()
	if err != nil {
		return fmt.Errorf("expand: %w", err)
	}
	if info.Size() != 0 {
		return fmt.Errorf("expand: %s is not empty", dst.Name())
	}
	decoder, err := NewDecoder()
	if err != nil {
		return err
	}
	defer decoder.Close()
	w, err := NewWriter(decoder, ix, dst)
	if err != nil {
		return err
	}
	if err := w.stream(ctx, counted{archive, progress, new(int64)}); err != nil {
		return fmt.Errorf("expand: %w", err)
	}
	return nil
}

type packed struct {
	number int
	data   []byte
}

// stream reads in one goroutine and expands in others. A goroutine's failure
// cancels ctx for all and is what is returned.
func (w *Writer) stream(ctx context.Context, archive io.Reader) error {
	n := w.decoder.Slots()
	free := make(chan []byte, n+1) // buffers of compressed frames; their number bounds the memory
	for range cap(free) {
		free <- nil
	}
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan packed)
	for range n {
		group.Go(func() error {
			for next := range work {
				if err := w.Packed(ctx, next.number, next.data); err != nil {
					return err
				}
				free <- next.data
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(work)
		return w.read(ctx, archive, free, work)
	})
	return group.Wait()
}

func (w *Writer) read(ctx context.Context, archive io.Reader, free <-chan []byte, work chan<- packed) error {
	for i, frame := range w.index.Frames {
		var buffer []byte
		select {
		case buffer = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if int64(cap(buffer)) < frame.Length {
			buffer = make([]byte, frame.Length)
		}
		buffer = buffer[:frame.Length]
		if got, err := io.ReadFull(archive, buffer); err != nil {
			return truncated(err, frame.Offset+int64(got), w.index.ArchiveSize())
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
