package acquire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
)

// progressEvery keeps the number of events low; the surface draws them at its
// own pace.
const progressEvery = 100 * time.Millisecond

// flight brings assets into the store: several at a time, each frame by whoever
// is free. All of them share the connections, the workers and their memory.
//
//	board -> line (network) ---> work -> worker -> file -> finish -> store
//	      -> copier (this disk) -^
type flight struct {
	*Acquirer
	assets   []*asset
	keep     bool         // the archives, too
	mayFetch func() error // asked before anything is downloaded

	board   *board
	buffers *buffers
	work    chan piece
	decoder *unpack.Decoder
	group   *errgroup.Group
	files   []*os.File // of other objects; appended to by admit alone

	telling sync.Mutex // progress is told by one goroutine at a time, and rises
}

// bring makes every asset be in the store, or says why one cannot.
func (a *Acquirer) bring(ctx context.Context, wanted []manifest.Asset, o Options, mayFetch func() error) (err error) {
	decoder, err := unpack.NewDecoder()
	if err != nil {
		return err
	}
	defer decoder.Close()
	f := &flight{
		Acquirer: a, keep: o.KeepArchive, mayFetch: mayFetch, decoder: decoder,
		board: newBoard(len(wanted), a.runSize), buffers: newBuffers(inFlight), work: make(chan piece),
	}
	for _, one := range wanted {
		f.assets = append(f.assets, &asset{Asset: one, begun: a.now()})
	}
	defer func() { err = errors.Join(err, f.close()) }()
	return f.fly(ctx)
}

// fly runs until every asset is in the store or one goroutine fails.
func (f *flight) fly(outer context.Context) error {
	group, ctx := errgroup.WithContext(outer)
	f.group = group
	f.group.Go(func() error { return f.admit(ctx) })
	f.group.Go(func() error { return f.copier(ctx) })
	for range lines {
		f.group.Go(func() error { return f.line(ctx) })
	}
	for range f.decoder.Slots() {
		f.group.Go(func() error { return f.worker(ctx) })
	}
	err := f.group.Wait()
	if err != nil && outer.Err() == nil && f.board.reason != nil {
		return f.board.reason
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%w: %d more bytes are needed", err, f.outstanding())
	}
	return err
}

// outstanding is what the assets that are not finished will still allocate.
func (f *flight) outstanding() (n int64) {
	for _, a := range f.assets {
		n += a.need()
	}
	return n
}

// close keeps the partials of what was not finished.
func (f *flight) close() error {
	var err error
	for _, a := range f.assets {
		err = errors.Join(err, a.close())
	}
	for _, file := range f.files {
		err = errors.Join(err, file.Close())
	}
	return err
}

// finish adopts an asset whose every frame is here, while others still come.
func (f *flight) finish(ctx context.Context, a *asset) error {
	f.telling.Lock()
	a.over = true
	f.telling.Unlock()
	if err := f.checkWhole(ctx, a); err != nil {
		return err
	}
	if err := a.commit(ctx); err != nil {
		return fmt.Errorf("keep %s: %w", a.Name, err)
	}
	f.emit(event.Event{
		Kind: event.Done, Stage: event.Fetch, Object: a.Name,
		Bytes: a.Archive.Size, Total: a.Archive.Size, Elapsed: f.now().Sub(a.begun),
	})
	if a.damaged {
		f.tell(a.Name, "%s is repaired: %s", a.Name, a.repairs())
	}
	err := a.close()
	f.board.finish(a)
	return err
}

// checkWhole compares the archive as a whole, where all of it passed or is kept.
// Each of its frames was right: only the publisher can have made the mistake.
func (f *flight) checkWhole(ctx context.Context, a *asset) error {
	wrong := a.wrong != "" && !f.board.isStruck(a.wrong)
	if a.archive != nil && !wrong {
		digest := sha256.New()
		if _, err := io.Copy(digest, cancellable{ctx, io.NewSectionReader(a.archive, 0, a.Archive.Size)}); err != nil {
			return fmt.Errorf("read the archive of %s: %w", a.Name, err)
		}
		wrong = hex.EncodeToString(digest.Sum(nil)) != a.Archive.SHA256
	}
	if !wrong {
		return nil
	}
	err := fault.New(fault.Trust, publisherHint, "verify %s: its frames are those of the index, the archive is not that of the manifest: %w",
		a.Name, unpack.ErrDigest)
	return errors.Join(err, a.claim.Discard())
}

// report tells how far an asset is, now and then, to the user and to the
// processes that wait for it.
func (f *flight) report(a *asset) {
	now := f.now().UnixNano()
	last := a.told.Load()
	if now-last < int64(progressEvery) || !a.told.CompareAndSwap(last, now) {
		return
	}
	f.telling.Lock()
	defer f.telling.Unlock()
	if a.over {
		return
	}
	n := max(0, min(a.moved.Load(), a.Archive.Size))
	f.emit(event.Event{Kind: event.Progress, Stage: event.Fetch, Object: a.Name, Bytes: n, Total: a.Archive.Size})
	a.claim.Progress(n, a.Archive.Size)
}

// cancellable is a reader that ends with its context.
type cancellable struct {
	ctx context.Context
	io.Reader
}

func (c cancellable) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(p)
}
