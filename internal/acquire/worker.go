package acquire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/unpack"
)

// piece is one frame on its way to the file.
type piece struct {
	asset  *asset
	frame  int
	data   []byte // from buffers
	place  string // that it came from; empty: this computer
	packed bool   // as the archive has it
	spare  bool   // not needed: only its digest counts
	old    bool   // from the damaged object that is replaced
}

// send hands a frame to the workers.
func (f *flight) send(ctx context.Context, p piece) error {
	select {
	case f.work <- p:
		return nil
	case <-ctx.Done():
		f.drop(p)
		f.buffers.put(p.data)
		return context.Cause(ctx)
	}
}

// worker checks, decodes and writes frames until everything is done.
func (f *flight) worker(ctx context.Context) error {
	for {
		select {
		case p := <-f.work:
			err := f.settle(ctx, p)
			f.buffers.put(p.data)
			if err != nil {
				return err
			}
		case <-f.board.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settle writes one frame. What comes from a place that was struck out is
// dropped unseen.
func (f *flight) settle(ctx context.Context, p piece) error {
	a := p.asset
	if p.place != "" && f.board.isStruck(p.place) {
		f.drop(p)
		return nil
	}
	err := p.write(ctx)
	switch {
	case err == nil && !p.spare:
		f.arrive(ctx, a, f.board.arrived(a, p.frame, p.old))
		return nil
	case err == nil:
		return nil
	case errors.Is(err, unpack.ErrDigest):
		f.drop(p)
		if p.place == "" { // the stored frame is not what it was: the network has it
			return nil
		}
		return f.refuse(p.place, mismatch(a.Name, p.place, err))
	case errors.Is(err, unpack.ErrFormat):
		return fault.New(fault.Trust, publisherHint, "unpack %s from %s: %w", a.Name, p.place, err)
	}
	return fmt.Errorf("unpack %s: %w", a.Name, err)
}

// arrive finishes an asset when its last frame is here.
func (f *flight) arrive(ctx context.Context, a *asset, last bool) {
	if last {
		f.group.Go(func() error { return f.finish(ctx, a) })
	}
}

// drop makes a frame that did not become anything one to be downloaded.
func (f *flight) drop(p piece) {
	if !p.spare {
		f.board.missed(p.asset, p.frame)
	}
}

// write checks a frame's digest and writes it, into the archive too where one is
// kept.
func (p piece) write(ctx context.Context) error {
	a := p.asset
	switch {
	case !p.packed:
		return a.writer.Plain(ctx, p.frame, p.data)
	case p.spare, a.have != nil && a.have[p.frame]:
		if err := a.check(p.frame, p.data); err != nil {
			return err
		}
	default:
		if err := a.writer.Packed(ctx, p.frame, p.data); err != nil {
			return err
		}
	}
	if a.archive == nil || p.place == "" {
		return nil
	}
	_, err := a.archive.WriteAt(p.data, a.index.Frames[p.frame].Offset)
	return err
}

// check compares a frame of the archive with the index.
func (a *asset) check(i int, data []byte) error {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != a.index.Frames[i].Compressed {
		return fmt.Errorf("frame %d, %d bytes at %d: %w", i, len(data), a.index.Frames[i].Offset, unpack.ErrDigest)
	}
	return nil
}
