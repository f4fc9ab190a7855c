package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/unpack"
)

// checkers is how many files are read at once: enough to hide a server's delay.
const checkers = 4

// attempts is how often a file is asked for whose connection breaks.
const attempts = 3

// Checked is one file of a release at one of the places that publish it.
type Checked struct {
	Place   string     `json:"place"` // address of the manifest there
	File    string     `json:"file"`
	Size    int64      `json:"size"`
	Right   bool       `json:"right"`
	Code    fault.Code `json:"code"`    // of the problem; empty where it is right
	Problem string     `json:"problem"` // empty where it is right
}

// Check reads every file that a catalogue's manifest names, at every place that
// publishes it, and compares it with its digest. Nothing is kept. The error is the
// context's: what is wrong is told file by file.
func Check(ctx context.Context, c resolve.Catalogue, source *fetch.Source, o Options) ([]Checked, error) {
	content, err := contentOf(c)
	if err != nil {
		return nil, err
	}
	var files []manifest.Blob
	for _, asset := range content.assets {
		files = append(files, asset.Index, asset.Archive)
	}
	files = slices.Concat(files, content.documents)
	var all []Checked
	for _, place := range c.Places {
		for _, file := range files {
			all = append(all, Checked{Place: place, File: file.File, Size: file.Size})
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(checkers)
	for i := range all {
		group.Go(func() error {
			all[i].read(ctx, source, files[i%len(files)], o)
			return context.Cause(ctx)
		})
	}
	return all, group.Wait()
}

// read compares one file with its digest.
func (c *Checked) read(ctx context.Context, source *fetch.Source, want manifest.Blob, o Options) {
	done := event.Span(o.sink(), o.Now, event.Verify, c.File)
	err := matches(ctx, source, fetch.Beside(c.Place, c.File), want.Digest)
	for n := 1; n < attempts && fault.CodeOf(err) == fault.Network && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil; n++ {
		err = matches(ctx, source, fetch.Beside(c.Place, c.File), want.Digest)
	}
	c.Place = fetch.Shown(c.Place)
	switch {
	case err == nil:
		c.Right = true
		done(want.Size)
		return
	case errors.Is(err, unpack.ErrDigest):
		c.Code = fault.Trust
	case errors.Is(err, fs.ErrNotExist):
		c.Code = fault.NotFound
	default:
		c.Code = fault.CodeOf(err)
	}
	c.Problem = err.Error()
}

// matches reads a file to its end, or to the first byte too many.
func matches(ctx context.Context, source *fetch.Source, address string, want manifest.Digest) error {
	stream, _, err := source.Open(ctx, address)
	if err != nil {
		return err
	}
	defer stream.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(stream, want.Size+1))
	switch {
	case err != nil:
		return err
	case n != want.Size:
		return fmt.Errorf("it has not the %d bytes that the manifest names: %w", want.Size, unpack.ErrDigest)
	case hex.EncodeToString(sum.Sum(nil)) != want.SHA256:
		return unpack.ErrDigest
	}
	return nil
}
