package acquire

import (
	"context"
	"slices"
	"sync"

	"github.com/smolvm/smolvm/internal/fetch"
)

// runSize is how many archive bytes one request asks for: enough that requests
// cost nothing, few enough that all connections end at about the same time.
const runSize = 16 << 20

// board says what is to be done: which frames are missing, who is at them, which
// places are not to be believed.
type board struct {
	mu      sync.Mutex
	changed *sync.Cond
	assets  []*asset      // in work
	locals  []local       // frames to be copied from this computer
	open    int           // assets that are not in the store yet
	done    chan struct{} // closed when none is open
	struck  map[string]bool
	reason  error // why the last place was struck out
	runSize int64
	streams map[*fetch.Stream]func() // ends the stream
}

func newBoard(open int, runSize int64) *board {
	b := &board{open: open, runSize: runSize, done: make(chan struct{}), struck: map[string]bool{}, streams: map[*fetch.Stream]func(){}}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// run is a row of frames of an asset, from first to before end.
type run struct{ first, end int }

// await returns when ready says so, everything is done, or ctx ends. It calls
// ready under the lock, again after each change.
func (b *board) await(ctx context.Context, ready func() bool) error {
	defer context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.changed.Broadcast()
	})()
	b.mu.Lock()
	defer b.mu.Unlock()
	for !ready() && b.open > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.changed.Wait()
	}
	return nil
}

// add puts an asset to work with the frames that are copied for it.
func (b *board) add(a *asset, locals []local) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.assets = append(b.assets, a)
	b.locals = append(b.locals, locals...)
	b.changed.Broadcast()
}

// finish says that an asset is in the store.
func (b *board) finish(a *asset) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.assets {
		if b.assets[i] == a {
			b.assets = append(b.assets[:i:i], b.assets[i+1:]...)
			break
		}
	}
	if b.open--; b.open == 0 {
		close(b.done)
	}
	b.changed.Broadcast()
}

// next waits for frames that have to be downloaded and takes them, of the asset
// that has the fewest connections: none waits for another's end. No asset:
// everything is done.
func (b *board) next(ctx context.Context) (a *asset, r run, err error) {
	err = b.await(ctx, func() bool {
		candidates := slices.Clone(b.assets)
		slices.SortStableFunc(candidates, func(x, y *asset) int { return x.lines - y.lines })
		for _, candidate := range candidates {
			if found, ok := candidate.pick(b.runSize); ok {
				a, r = candidate, found
				a.lines++
				return true
			}
		}
		return false
	})
	return a, r, err
}

// nextLocal waits for a frame that can be copied. ok is false when everything is
// done.
func (b *board) nextLocal(ctx context.Context) (l local, ok bool, err error) {
	err = b.await(ctx, func() bool {
		if len(b.locals) > 0 {
			l, ok, b.locals = b.locals[0], true, b.locals[1:]
		}
		return ok
	})
	return l, ok, err
}

// pick takes the next run. The first request for an asset avoids its first byte,
// so that the answer shows whether the place knows ranges.
func (a *asset) pick(most int64) (run, bool) {
	if a.mode == asking || a.mode == plain {
		return run{}, false
	}
	first := -1
	for i, s := range a.frames {
		if s == missing && (first < 0 || a.mode == unknown && first == 0) {
			first = i
			if i > 0 || a.mode != unknown {
				break
			}
		}
	}
	if first < 0 {
		return run{}, false
	}
	if a.mode == unknown {
		a.mode = asking
	}
	r := run{first, first}
	for size := int64(0); r.end < len(a.frames) && a.frames[r.end] == missing && (size == 0 || size < most); r.end++ {
		a.frames[r.end] = taken
		size += a.length(r.end)
	}
	return r, true
}

// answered notes how a place serves the asset. It returns false where the whole
// archive comes and another connection has that already.
func (b *board) answered(a *asset, whole bool, r run) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.changed.Broadcast()
	if !whole {
		if a.mode != plain {
			a.mode = ranged
		}
		return true
	}
	b.release(a, r)
	if a.mode == plain {
		return false
	}
	a.mode = plain
	return true
}

// ended says that a connection no longer works on the asset: the frames of its
// run that it did not bring are missing again. After a plain stream the next
// request finds out anew how the archive is served: it may go elsewhere.
func (b *board) ended(a *asset, whole bool, r run) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.lines--
	if whole || a.mode == asking {
		a.mode = unknown
	}
	b.release(a, r)
	b.changed.Broadcast()
}

func (b *board) release(a *asset, r run) {
	for i := r.first; i < r.end; i++ {
		if a.frames[i] == taken {
			a.frames[i] = missing
		}
	}
}

// take takes one frame for a plain stream. more is whether any frame from there
// on is missing.
func (b *board) take(a *asset, i int) (mine, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.frames[i] == missing {
		a.frames[i] = taken
		return true, true
	}
	for _, s := range a.frames[i:] {
		if s == missing {
			return false, true
		}
	}
	return false, false
}

// watch is whether every frame that holds anything has yet to come. Then the
// whole archive is going to pass, and the asset is not complete before watched.
func (b *board) watch(a *asset) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range a.frames {
		if s != missing && !a.index.Frames[i].Zero {
			return false
		}
	}
	a.left++
	return true
}

// watched undoes watch. last is whether nothing else was left.
func (b *board) watched(a *asset) (last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.left--
	return a.left == 0
}

// doubt notes that a place has another archive as a whole.
func (b *board) doubt(a *asset, place string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.wrong = place
}

// missed makes a frame that was taken one to be downloaded.
func (b *board) missed(a *asset, i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.frames[i] = missing
	a.moved.Add(-a.length(i))
	b.changed.Broadcast()
}

// arrived notes a frame that was written. last is whether it was the last one.
func (b *board) arrived(a *asset, i int, fromOld bool) (last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.frames[i] = here
	if fromOld {
		a.copied++
	}
	a.left--
	return a.left == 0
}

// enter notes a stream that is read. ok is false where its place was struck out.
func (b *board) enter(stream *fetch.Stream, end func()) (ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.streams[stream] = end
	return !b.struck[stream.Place]
}

func (b *board) leave(stream *fetch.Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.streams, stream)
}

// strike says that a place serves wrong bytes. All that comes from it ends at
// once. first is false when that is known already.
func (b *board) strike(place string) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.struck[place] {
		return false
	}
	b.struck[place] = true
	for stream, end := range b.streams {
		if stream.Place == place {
			end()
		}
	}
	return true
}

func (b *board) isStruck(place string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.struck[place]
}

// give notes why the last place was struck out.
func (b *board) give(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reason = reason
}
