package acquire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
)

// lines is how many connections one run has.
const lines = 4

// line downloads runs of frames, one after the other, until everything is done.
func (f *flight) line(ctx context.Context) error {
	for {
		a, r, err := f.board.next(ctx)
		if err != nil || a == nil {
			return err
		}
		if err := f.mayFetch(); err != nil {
			return err
		}
		if err := f.carry(ctx, a, r); err != nil {
			return err
		}
	}
}

// carry downloads one run, or what is missing of the whole archive where the
// place knows no ranges. Frames that did not come are on the board again.
func (f *flight) carry(ctx context.Context, a *asset, r run) error {
	whole := false
	defer func() { f.board.ended(a, whole, r) }()
	span := fetch.Span{From: a.index.Frames[r.first].Offset, To: a.end(r.end - 1)}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.places.Open(inner, a.Archive.File, span)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", a.Name, err)
	}
	defer stream.Close()
	if ok := f.board.enter(stream, cancel); !ok {
		return nil
	}
	defer f.board.leave(stream)
	if stream.Size >= 0 && stream.Size != a.Archive.Size {
		return f.refuse(stream.Place, fault.New(fault.Network, mirrorHint, "fetch %s: %s has %d bytes, the manifest says %d",
			a.Name, stream.Place, stream.Size, a.Archive.Size))
	}
	if stream.From == span.From {
		f.board.answered(a, false, r)
		r, err = f.read(ctx, a, stream, r)
	} else {
		whole = f.board.answered(a, true, r)
		if r = (run{}); whole {
			r, err = f.pour(ctx, a, stream)
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errLast):
		return err
	}
	return nil // the mirrors know what broke: they wait, or ask the next place
}

// read takes the frames of a run. It returns what is left of the run.
func (f *flight) read(ctx context.Context, a *asset, stream *fetch.Stream, r run) (left run, err error) {
	for ; r.first < r.end; r.first++ {
		p, err := f.pull(ctx, a, stream, r.first)
		if err != nil {
			return r, err
		}
		if err := f.send(ctx, p); err != nil {
			return r, err
		}
	}
	_, _ = stream.Read(make([]byte, 1)) // sees the end, so that the connection serves again
	return r, nil
}

// pour takes the missing frames out of a stream of the whole archive. Where all
// of them pass, so does the whole archive, and its own digest is compared.
func (f *flight) pour(ctx context.Context, a *asset, stream *fetch.Stream) (left run, err error) {
	var digest hash.Hash
	if f.board.watch(a) {
		digest = sha256.New()
		defer func() { f.arrive(ctx, a, f.board.watched(a)) }()
	}
	for i := range a.index.Frames {
		mine, more := f.board.take(a, i)
		switch {
		case mine, digest != nil:
			err = f.pass(ctx, a, stream, i, mine, digest)
		case more:
			_, err = io.CopyN(io.Discard, stream, a.length(i))
		default:
			return run{}, nil
		}
		if err != nil {
			if mine {
				left = run{i, i + 1}
			}
			return left, err
		}
	}
	if digest == nil {
		return run{}, nil
	}
	return run{}, f.closing(a, stream, digest)
}

// pass hands one frame of a whole archive on. One that is not needed is checked
// all the same.
func (f *flight) pass(ctx context.Context, a *asset, stream *fetch.Stream, i int, mine bool, digest hash.Hash) error {
	p, err := f.pull(ctx, a, stream, i)
	if err != nil {
		return err
	}
	if digest != nil {
		digest.Write(p.data)
	}
	if p.spare = !mine; p.spare {
		a.moved.Add(-a.length(i))
	}
	return f.send(ctx, p)
}

// closing compares the whole archive: its end and its digest.
func (f *flight) closing(a *asset, stream *fetch.Stream, digest hash.Hash) error {
	switch n, err := io.ReadFull(stream, make([]byte, 1)); {
	case n > 0:
		return f.refuse(stream.Place, mismatch(a.Name, stream.Place, errors.New("bytes after the end of the archive")))
	case !errors.Is(err, io.EOF):
		return err
	}
	if hex.EncodeToString(digest.Sum(nil)) != a.Archive.SHA256 {
		f.board.doubt(a, stream.Place)
	}
	return nil
}

// pull reads one frame.
func (f *flight) pull(ctx context.Context, a *asset, stream *fetch.Stream, i int) (piece, error) {
	data, err := f.buffers.get(ctx, a.length(i))
	if err != nil {
		return piece{}, err
	}
	n, err := io.ReadFull(metered{stream, f, a}, data)
	if err != nil {
		a.moved.Add(-int64(n))
		f.buffers.put(data)
		if err == io.EOF || err == io.ErrUnexpectedEOF { // of ReadFull: the stream itself ended cleanly
			err = fault.New(fault.Network, mirrorHint, "fetch %s from %s: the archive ends after %d of %d bytes: %w",
				a.Name, stream.Place, a.index.Frames[i].Offset+int64(n), a.Archive.Size, io.ErrUnexpectedEOF)
		}
		return piece{}, err
	}
	return piece{asset: a, frame: i, data: data, place: stream.Place, packed: true}, nil
}

// metered tells how much of an asset has come.
type metered struct {
	stream *fetch.Stream
	flight *flight
	asset  *asset
}

func (m metered) Read(p []byte) (int, error) {
	n, err := m.stream.Read(p)
	m.asset.moved.Add(int64(n))
	m.flight.report(m.asset)
	return n, err
}

// refuse strikes a place out because of what it served, and returns the reason
// where none is left. That is why the flight ends, even if another connection
// finds no place to ask before.
func (f *flight) refuse(place string, reason error) error {
	if !f.board.strike(place) || f.places.Strike(place, reason) {
		return nil
	}
	f.board.give(reason)
	return last{reason}
}

// errLast is what an error of the last place is.
var errLast = errors.New("no place is left")

// last is the reason why the last place was struck out.
type last struct{ error }

func (l last) Unwrap() error        { return l.error }
func (l last) Is(target error) bool { return target == errLast }
