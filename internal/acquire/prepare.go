package acquire

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
)

// prepare puts claimed assets to work once it is known what is missing of them
// and that there is space for it.
func (f *flight) prepare(ctx context.Context, assets []*asset) error {
	rest, err := f.settleAll(ctx, assets)
	if err != nil || len(rest) == 0 {
		return err
	}
	if err := f.indexes(ctx, rest); err != nil {
		return err
	}
	for _, a := range rest {
		if err := f.survey(ctx, a); err != nil {
			return fmt.Errorf("continue with %s: %w", a.Name, err)
		}
	}
	locals, err := f.gather(ctx, rest)
	if err != nil {
		return err
	}
	var need int64
	for _, a := range rest {
		need += a.need()
	}
	if err := f.reserve(need); err != nil {
		return err
	}
	for _, a := range rest {
		f.begin(ctx, a, locals[a])
	}
	return nil
}

// settleAll verifies objects that are here and were touched. Those that are what
// they were are done; the rest is to be repaired or fetched.
func (f *flight) settleAll(ctx context.Context, assets []*asset) (rest []*asset, err error) {
	for _, a := range assets {
		object, err := f.store.Lookup(ctx, a.key())
		if err != nil {
			return nil, err
		}
		if object.State == store.Doubtful {
			if object.State, err = f.reverify(ctx, a); err != nil {
				return nil, err
			}
			if object.State != store.Ready {
				f.warn("%s was altered on disk: %s", object.Path, a.damage())
			}
		}
		if object.State != store.Ready || f.keep && object.Archive == "" {
			a.stored = object.State == store.Ready
			rest = append(rest, a)
			continue
		}
		if err := a.close(); err != nil {
			return nil, err
		}
		f.board.finish(a)
	}
	return rest, nil
}

// reverify reads every byte of an object that was touched. It becomes Ready
// again, or stays Doubtful and lends its good frames to the new one.
func (f *flight) reverify(ctx context.Context, a *asset) (store.State, error) {
	a.damaged = true
	file, identity, err := a.claim.Open()
	if err != nil {
		return store.Doubtful, nil //nolint:nilerr // a link, a device, gone: there is nothing to lend
	}
	a.old = file
	f.tell(a.Name, "%s was touched: verifying it", file.Name())
	defer f.reading(a.Name, a.Content.Size)()
	index, err := f.storedIndex(a)
	if err != nil {
		return store.Doubtful, nil //nolint:nilerr // without its index nothing is known of it
	}
	a.bad, err = unpack.Verify(ctx, index, file)
	switch {
	case errors.Is(err, unpack.ErrDigest): // another size
		return store.Doubtful, nil
	case err != nil:
		return store.Doubtful, err
	case len(a.bad) > 0:
		return store.Doubtful, nil
	}
	object, err := a.claim.Settle(ctx, a.origin(), identity)
	if err != nil {
		return store.Doubtful, err
	}
	a.damaged = object.State != store.Ready
	return object.State, nil
}

// storedIndex is the index that lies with the object, if it is the right one.
func (f *flight) storedIndex(a *asset) (unpack.Index, error) {
	raw, err := f.store.Index(a.key())
	if err != nil {
		return unpack.Index{}, err
	}
	return unpack.ParseIndex(raw)
}

// indexes gets the frame indexes, those that are not here all at the same time.
// Before the first byte comes, the space has to be there for as much as is known
// to be needed without them.
func (f *flight) indexes(ctx context.Context, assets []*asset) error {
	var absent []*asset
	var least int64
	for _, a := range assets {
		if a.raw = a.claim.PartialIndex(); a.raw == nil {
			absent = append(absent, a)
			least += a.Archive.Size
		}
	}
	if len(absent) > 0 {
		if err := f.mayFetch(); err != nil {
			return err
		}
		if err := f.reserve(least); err != nil {
			return err
		}
	}
	group, inner := errgroup.WithContext(ctx)
	for _, a := range absent {
		group.Go(func() error { return f.getIndex(inner, a) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, a := range assets {
		if err := a.parse(); err != nil {
			return err
		}
	}
	return nil
}

// getIndex downloads a frame index. It is compared with the manifest before
// anything else looks at it.
func (f *flight) getIndex(ctx context.Context, a *asset) error {
	limit := a.Index.Size
	if limit == 0 { // of a sandbox that knows no more than the digest
		limit = unpack.MaxIndex
	}
	done := event.Span(f.sink, f.now, event.Resolve, "index of "+a.Name)
	raw, err := f.places.Get(ctx, a.Index.File, limit, func(raw []byte) error {
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != a.key() {
			return mismatch(a.Name, a.Index.File, fmt.Errorf("frame index: %w", unpack.ErrDigest))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fetch the index of %s: %w", a.Name, err)
	}
	done(int64(len(raw)))
	a.raw = raw
	return a.claim.KeepIndex(raw)
}

// parse reads the index, whose digest is right, and compares what it says with
// what the manifest says.
func (a *asset) parse() (err error) {
	a.index, err = unpack.ParseIndex(a.raw)
	switch {
	case err != nil:
	case a.index.Size != a.Content.Size || a.index.ArchiveSize() != a.Archive.Size:
		err = fmt.Errorf("it describes %d bytes in %d, the manifest %d in %d",
			a.index.Size, a.index.ArchiveSize(), a.Content.Size, a.Archive.Size)
	case len(a.index.Frames) == 1 && a.index.Frames[0].Compressed != a.Archive.SHA256:
		err = errors.New("it describes another archive than the manifest")
	}
	if err != nil {
		return fault.New(fault.Trust, publisherHint, "use the index of %s, %s: %w", a.Name, a.Index.File, err)
	}
	return nil
}

// survey opens what an earlier run left, or begins, and finds out what is
// missing.
func (f *flight) survey(ctx context.Context, a *asset) error {
	a.frames = make([]state, len(a.index.Frames))
	for i := range a.frames {
		a.frames[i] = here
	}
	if !a.stored {
		file, err := a.claim.Partial()
		if err != nil {
			return err
		}
		if !isEmpty(file) {
			defer f.reading(a.Name, a.Content.Size)()
		}
		if err := a.surveyContent(ctx, f.decoder, file); err != nil {
			return err
		}
	}
	if !f.keep {
		return nil
	}
	return f.surveyArchive(ctx, a)
}

// surveyContent finds the frames that the partial does not hold. Zero frames are
// made the holes they are.
func (a *asset) surveyContent(ctx context.Context, decoder *unpack.Decoder, file *os.File) error {
	writer, err := unpack.NewWriter(decoder, a.index, file)
	if err != nil {
		return err
	}
	a.writer = writer
	absent, err := writer.Missing(ctx)
	if err != nil {
		return err
	}
	for _, i := range absent {
		if !a.index.Frames[i].Zero {
			a.frames[i] = missing
		} else if err := writer.Zero(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// surveyArchive does the same with the archive that is to be kept. It has zero
// frames, too.
func (f *flight) surveyArchive(ctx context.Context, a *asset) error {
	file, err := a.claim.Archive()
	if err != nil {
		return err
	}
	if !isEmpty(file) {
		defer f.reading(a.Name+" archive", a.Archive.Size)()
	}
	if err := file.Truncate(a.Archive.Size); err != nil {
		return err
	}
	a.archive = file
	a.have, a.packed = make([]bool, len(a.frames)), make([]bool, len(a.frames))
	var buffer []byte
	for i, frame := range a.index.Frames {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if int64(cap(buffer)) < frame.Length {
			buffer = make([]byte, frame.Length)
		}
		buffer = buffer[:frame.Length]
		if _, err := file.ReadAt(buffer, frame.Offset); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		a.have[i] = a.frames[i] == here
		if a.packed[i] = a.check(i, buffer) == nil; !a.packed[i] {
			a.frames[i] = missing
		}
	}
	return nil
}

// reading says that what is here of an object is read, and returns what says that
// this is over.
func (f *flight) reading(object string, total int64) (over func()) {
	begun := f.now()
	f.emit(event.Event{Kind: event.Start, Stage: event.Verify, Object: object, Total: total})
	return func() {
		f.emit(event.Event{Kind: event.Done, Stage: event.Verify, Object: object, Bytes: total, Total: total, Elapsed: f.now().Sub(begun)})
	}
}

// isEmpty tells whether a file holds nothing that would take time to read.
func isEmpty(file *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(file.Fd()), &st) == nil && st.Blocks == 0
}

// need is what the missing frames will allocate, in bytes: those that are copied
// from other objects as well as those that are downloaded.
func (a *asset) need() (n int64) {
	for i, state := range a.frames {
		if state == here {
			continue
		}
		if a.have == nil || !a.have[i] {
			n += a.index.Length(i)
		}
		if a.packed != nil && !a.packed[i] {
			n += a.length(i)
		}
	}
	return n
}

// begin hands an asset to the lines and workers.
func (f *flight) begin(ctx context.Context, a *asset, locals []local) {
	var moved int64
	for i, state := range a.frames {
		if state == here {
			moved += a.length(i)
		} else {
			a.left++
		}
	}
	for _, l := range locals {
		if l.isSure() {
			moved += a.length(l.frame)
		}
	}
	a.moved.Store(moved)
	a.begun = f.now()
	f.emit(event.Event{Kind: event.Start, Stage: event.Fetch, Object: a.Name, Bytes: moved, Total: a.Archive.Size})
	a.claim.Progress(moved, a.Archive.Size)
	if a.left == 0 {
		f.arrive(ctx, a, true)
		return
	}
	f.board.add(a, locals)
}
