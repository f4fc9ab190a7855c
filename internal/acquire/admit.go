package acquire

import (
	"context"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/store"
)

// arrival is what became of asking for one claim.
type arrival struct {
	asset   *asset
	waiting bool // another process has it; a second arrival follows
	ready   bool // it is in the store
}

// admit asks for all claims at once and puts to work what is missing: first
// everything that is free, for which the space has to suffice as a whole, then
// what others began and did not finish. Nobody waits for a claim before it works
// on what it has, so no two processes can wait for each other.
func (f *flight) admit(ctx context.Context) error {
	arrivals := make(chan arrival)
	for _, a := range f.assets {
		f.group.Go(func() error { return f.ask(ctx, a, arrivals) })
	}
	var free []*asset
	answers, open := len(f.assets), len(f.assets)
	for open > 0 {
		select {
		case got := <-arrivals:
			if !got.waiting {
				open--
			}
			switch {
			case got.ready:
				f.board.finish(got.asset)
			case !got.waiting:
				free = append(free, got.asset)
			}
			if !got.asset.met {
				got.asset.met = true
				answers--
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if answers > 0 || len(free) == 0 {
			continue
		}
		if err := f.prepare(ctx, free); err != nil {
			return err
		}
		free = nil
	}
	return nil
}

// ask waits for the claim of one asset and shows how far the process that has it
// is. When that one dies, the claim comes here.
func (f *flight) ask(ctx context.Context, a *asset, arrivals chan<- arrival) error {
	follows := false
	claim, ready, err := f.claim(ctx, a, func(done, total int64) {
		if !follows {
			follows = true
			f.follow(ctx, a, arrivals)
		}
		f.emit(event.Event{Kind: event.Progress, Stage: event.Wait, Object: a.Name, Bytes: done, Total: max(total, a.Archive.Size)})
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", a.Name, err)
	}
	if follows {
		f.followed(a, ready)
	}
	a.claim = claim
	select {
	case arrivals <- arrival{asset: a, ready: ready}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// claim gets the right to an asset. An object that is there is no answer to who
// asked for its archive.
func (f *flight) claim(ctx context.Context, a *asset, waiting func(done, total int64)) (*store.Claim, bool, error) {
	if f.keep {
		claim, err := f.store.Seize(ctx, a.key(), waiting)
		return claim, false, err
	}
	claim, ready, err := f.store.Claim(ctx, a.key(), waiting)
	if err != nil || ready {
		return nil, ready, err
	}
	// While another process links a new object into its images, its identity is
	// in flux: the lookup waits for that.
	object, err := f.store.Lookup(ctx, a.key())
	if err == nil && object.State != store.Ready {
		return claim, false, nil
	}
	return nil, true, errors.Join(err, claim.Release())
}

// follow says that another process is at work.
func (f *flight) follow(ctx context.Context, a *asset, arrivals chan<- arrival) {
	f.tell(a.Name, "another smolvm is fetching %s: waiting for it", a.Name)
	f.emit(event.Event{Kind: event.Start, Stage: event.Wait, Object: a.Name, Total: a.Archive.Size})
	select {
	case arrivals <- arrival{asset: a, waiting: true}:
	case <-ctx.Done():
	}
}

func (f *flight) followed(a *asset, ready bool) {
	done := event.Event{Kind: event.Done, Stage: event.Wait, Object: a.Name, Elapsed: f.now().Sub(a.begun)}
	if ready {
		done.Bytes, done.Total = a.Archive.Size, a.Archive.Size
	}
	f.emit(done)
	if !ready {
		f.tell(a.Name, "the other smolvm did not finish %s: going on with it", a.Name)
	}
}
