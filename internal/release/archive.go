package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
)

// Places publish the files of a release.
type Places interface {
	Open(ctx context.Context, file string, span fetch.Span) (*fetch.Stream, error)
	Get(ctx context.Context, file string, limit int64, check func([]byte) error) ([]byte, error)
	Strike(place string, reason error) (left bool)
}

// archive reads a published archive from whichever place delivers it, frame by
// frame, and hands out only frames that are right. It goes on at the byte where
// a connection broke.
type archive struct {
	places Places
	asset  manifest.Asset
	index  unpack.Index

	next   int // frame
	buffer []byte
	whole  hash.Hash // of the frames so far

	stream *fetch.Stream
}

func newArchive(places Places, asset manifest.Asset, index unpack.Index) *archive {
	return &archive{places: places, asset: asset, index: index, whole: sha256.New()}
}

// skip says that the caller has the next frame already.
func (a *archive) skip(data []byte) {
	a.whole.Write(data)
	a.next++
}

// frame returns the next frame's bytes, valid until the next call, and io.EOF
// after the last one when the archive as a whole is right, too.
func (a *archive) frame(ctx context.Context) ([]byte, error) {
	if a.next == len(a.index.Frames) {
		return nil, a.end()
	}
	f := a.index.Frames[a.next]
	if int64(cap(a.buffer)) < f.Length {
		a.buffer = make([]byte, f.Length)
	}
	data := a.buffer[:f.Length]
	if err := a.fetch(ctx, f, data); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", a.asset.Archive.File, err)
	}
	a.whole.Write(data)
	a.next++
	return data, nil
}

func (a *archive) end() error {
	if hex.EncodeToString(a.whole.Sum(nil)) != a.asset.Archive.SHA256 {
		return fault.New(fault.Trust, publisherHint, "verify %s: its frames are right, the whole is not: %w", a.asset.Archive.File, unpack.ErrDigest)
	}
	return io.EOF
}

const publisherHint = "The signed manifest and this file do not fit together: tell its publisher."

// fetch fills data with one frame. Of wrong bytes the place is struck out, once
// all of them came from it.
func (a *archive) fetch(ctx context.Context, f unpack.Frame, data []byte) error {
	for got, from := 0, ""; ; {
		if err := a.open(ctx, f.Offset+int64(got)); err != nil {
			return err
		}
		place := a.stream.Place
		mixed := got > 0 && from != place
		n, err := io.ReadFull(a.stream, data[got:])
		got, from = got+n, place
		switch {
		case err != nil:
			err = a.cut(err)
		case digest(data) == f.Compressed:
			return nil
		case mixed: // whose fault it is shows when one place delivers it all
			got = 0
			a.close()
		default:
			got = 0
			err = a.strike(fmt.Errorf("frame %d of %s: %w", a.next, a.asset.Archive.File, unpack.ErrDigest))
		}
		if err != nil {
			return err
		}
	}
}

// open makes sure that a stream stands at a byte of the archive.
func (a *archive) open(ctx context.Context, at int64) error {
	for a.stream == nil {
		stream, err := a.places.Open(ctx, a.asset.Archive.File, fetch.Span{From: at, To: a.asset.Archive.Size})
		if err != nil {
			return err
		}
		a.stream = stream
		if stream.Size >= 0 && stream.Size != a.asset.Archive.Size {
			err = a.strike(fmt.Errorf("%s has %d bytes there instead of %d: %w",
				a.asset.Archive.File, stream.Size, a.asset.Archive.Size, unpack.ErrDigest))
		} else if _, skipped := io.CopyN(io.Discard, stream, at-stream.From); skipped != nil {
			err = a.cut(skipped)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cut ends a stream that broke. One that ended cleanly and too early is wrong.
func (a *archive) cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return a.strike(fmt.Errorf("%s ends too early there: %w", a.asset.Archive.File, unpack.ErrDigest))
	}
	a.close() // Places knows how often that may happen
	return nil
}

// strike gives a place up; it is an error when no other is left.
func (a *archive) strike(reason error) error {
	place := a.stream.Place
	a.close()
	if a.places.Strike(place, reason) {
		return nil
	}
	return fault.New(fault.Trust, "Nothing wrong was kept. Try again later, or use another mirror.", "verify what %s sent: %w", place, reason)
}

func (a *archive) close() {
	if a.stream != nil {
		_ = a.stream.Close() // only read from
		a.stream = nil
	}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// getBlob fetches a small file and compares it with the manifest.
func getBlob(ctx context.Context, places Places, blob manifest.Blob) ([]byte, error) {
	raw, err := places.Get(ctx, blob.File, blob.Size, func(data []byte) error {
		if digest(data) != blob.SHA256 {
			return fmt.Errorf("%s: %w", blob.File, unpack.ErrDigest)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", blob.File, err)
	}
	return raw, nil
}

// getIndex fetches a frame index and compares it with the manifest before it is
// parsed.
func getIndex(ctx context.Context, places Places, asset manifest.Asset) ([]byte, unpack.Index, error) {
	raw, err := getBlob(ctx, places, asset.Index)
	if err != nil {
		return nil, unpack.Index{}, err
	}
	index, err := parseIndex(asset, raw)
	return raw, index, err
}
