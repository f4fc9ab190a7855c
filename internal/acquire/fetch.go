package acquire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
)

// progressEvery keeps the number of events low; the surface draws them at its
// own pace.
const progressEvery = 100 * time.Millisecond

// job is one asset to fetch.
type job struct {
	step     resolve.Step
	claim    *store.Claim
	index    unpack.Index
	rawIndex []byte
}

// getIndex downloads the frame index and compares it with the manifest before
// it is parsed.
func (a *Acquirer) getIndex(ctx context.Context, j *job) error {
	asset := j.step.Asset
	raw, err := a.source.Get(ctx, j.step.Index, asset.Index.Size)
	if err != nil {
		return fmt.Errorf("fetch the index of %s: %w", asset.Name, err)
	}
	if int64(len(raw)) != asset.Index.Size || sum(raw) != asset.Index.SHA256 {
		return mismatch(asset.Name, j.step.Index, fmt.Errorf("frame index: %w", unpack.ErrDigest))
	}
	index, err := unpack.ParseIndex(raw)
	if err == nil && (index.Size != asset.Content.Size || index.ArchiveSize() != asset.Archive.Size) {
		err = fmt.Errorf("it describes %d bytes in %d, the manifest %d in %d",
			index.Size, index.ArchiveSize(), asset.Content.Size, asset.Archive.Size)
	}
	if err != nil {
		return fault.New(fault.Trust, publisherHint, "use the index of %s at %s: %w", asset.Name, fetch.Shown(j.step.Index), err)
	}
	j.index, j.rawIndex = index, raw
	return nil
}

// fetch downloads, verifies and unpacks one archive in one pass, and adopts it.
func (a *Acquirer) fetch(ctx context.Context, j job) error {
	asset := j.step.Asset
	begun := a.now()
	a.emit(event.Event{Kind: event.Start, Stage: event.Fetch, Object: asset.Name, Total: asset.Archive.Size})
	file, err := j.claim.Create()
	if err != nil {
		return err
	}
	if err := a.expand(ctx, j, file); err != nil {
		return errors.Join(err, j.claim.Release())
	}
	origin := store.Origin{Name: asset.Name, Archive: asset.Archive.Digest, Content: asset.Content}
	if _, err := j.claim.Commit(ctx, origin, j.rawIndex); err != nil {
		return err
	}
	a.emit(event.Event{
		Kind: event.Done, Stage: event.Fetch, Object: asset.Name,
		Bytes: asset.Archive.Size, Total: asset.Archive.Size, Elapsed: a.now().Sub(begun),
	})
	return j.claim.Release()
}

// expand streams the archive into the file. The whole archive passes here, so
// its own digest is checked too; every frame was checked before it was decoded.
func (a *Acquirer) expand(ctx context.Context, j job, file *os.File) error {
	asset := j.step.Asset
	stream, size, err := a.source.Open(ctx, j.step.Archive)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", asset.Name, err)
	}
	defer stream.Close()
	if size >= 0 && size != asset.Archive.Size {
		return fault.New(fault.Network, mirrorHint, "fetch %s: %s has %d bytes, the manifest says %d",
			asset.Name, fetch.Shown(j.step.Archive), size, asset.Archive.Size)
	}
	whole := sha256.New()
	err = unpack.Expand(ctx, io.TeeReader(stream, whole), j.index, file, a.progress(asset.Name, asset.Archive.Size))
	switch {
	case errors.Is(err, unpack.ErrDigest):
		return mismatch(asset.Name, j.step.Archive, err)
	case errors.Is(err, unpack.ErrFormat):
		return fault.New(fault.Trust, publisherHint, "unpack %s from %s: %w", asset.Name, fetch.Shown(j.step.Archive), err)
	case errors.Is(err, io.ErrUnexpectedEOF) && fault.CodeOf(err) == fault.Internal: // a clean end, too early
		return fault.New(fault.Network, mirrorHint, "fetch %s from %s: %w", asset.Name, fetch.Shown(j.step.Archive), err)
	case err != nil:
		return fmt.Errorf("fetch %s: %w", asset.Name, err)
	case hex.EncodeToString(whole.Sum(nil)) != asset.Archive.SHA256:
		return mismatch(asset.Name, j.step.Archive, unpack.ErrDigest)
	}
	return nil
}

func (a *Acquirer) progress(name string, total int64) func(int64) {
	last := a.now()
	return func(n int64) {
		now := a.now()
		if now.Sub(last) < progressEvery {
			return
		}
		last = now
		a.emit(event.Event{Kind: event.Progress, Stage: event.Fetch, Object: name, Bytes: n, Total: total})
	}
}

const (
	mirrorHint    = "Nothing of it was kept. Try again, or use another mirror."
	publisherHint = "The signed manifest and this file do not fit together: tell its publisher."
)

func mismatch(name, address string, err error) error {
	return fault.New(fault.Trust, "It was deleted and nothing booted. "+mirrorHint,
		"verify %s from %s: %w", name, fetch.Shown(address), err)
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}
