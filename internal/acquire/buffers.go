package acquire

import (
	"context"
	"sync"
)

const (
	// inFlight bounds the bytes between the network and the workers, whatever the
	// image. With the decoder's own buffers a run stays far below 256 MiB.
	inFlight = 64 << 20
	// grain is what buffers are rounded up to, so that they fit again.
	grain = 64 << 10
)

// buffers lends memory for frames and takes it back, at most limit bytes of it
// in all. Nothing is left to the garbage collector, which would let twice as
// much pile up.
type buffers struct {
	limit int64

	mu    sync.Mutex
	freed *sync.Cond
	idle  [][]byte
	total int64 // lent and idle
}

func newBuffers(limit int64) *buffers {
	b := &buffers{limit: limit}
	b.freed = sync.NewCond(&b.mu)
	return b
}

// get waits for n bytes, at most limit.
func (b *buffers) get(ctx context.Context, n int64) ([]byte, error) {
	defer context.AfterFunc(ctx, b.wake)()
	b.mu.Lock()
	defer b.mu.Unlock()
	for ctx.Err() == nil {
		if buffer := b.fit(n); buffer != nil {
			return buffer[:n], nil
		}
		b.freed.Wait()
	}
	return nil, context.Cause(ctx)
}

func (b *buffers) put(buffer []byte) {
	b.mu.Lock()
	b.idle = append(b.idle, buffer[:cap(buffer)])
	b.mu.Unlock()
	b.freed.Broadcast()
}

func (b *buffers) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freed.Broadcast()
}

// fit takes the smallest idle buffer that holds n bytes, or makes one where there
// is room, for which smaller idle ones go. nil: wait.
func (b *buffers) fit(n int64) []byte {
	best := -1
	for i, buffer := range b.idle {
		if int64(cap(buffer)) >= n && (best < 0 || cap(buffer) < cap(b.idle[best])) {
			best = i
		}
	}
	if best >= 0 {
		return b.take(best)
	}
	size := (n + grain - 1) / grain * grain
	for b.total+size > b.limit && len(b.idle) > 0 {
		b.total -= int64(cap(b.take(len(b.idle) - 1)))
	}
	if b.total > 0 && b.total+size > b.limit {
		return nil
	}
	b.total += size
	return make([]byte, size)
}

func (b *buffers) take(i int) []byte {
	buffer, last := b.idle[i], len(b.idle)-1
	b.idle[i], b.idle[last] = b.idle[last], nil
	b.idle = b.idle[:last]
	return buffer
}
