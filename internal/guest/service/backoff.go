//go:build linux

package service

import (
	"context"
	"time"
)

// Pause says how long a service that ended rests before it starts again.
type Pause struct {
	First time.Duration // after the first end; each further one doubles it
	Most  time.Duration
	// Good is how long a service has to run for its next pause to be the first again.
	Good time.Duration
}

// DefaultPause is for real sandboxes. An agent's service that fails at once is
// tried often enough to notice that what it lacked is there, and seldom enough
// not to keep a processor busy.
func DefaultPause() Pause {
	return Pause{First: time.Second, Most: time.Minute, Good: time.Minute}
}

type backoff struct {
	Pause
	last time.Duration
}

// next is the pause after a run of the given length.
func (b *backoff) next(ran time.Duration) time.Duration {
	b.last = min(2*b.last, b.Most)
	if b.last == 0 || ran >= b.Good {
		b.last = b.First
	}
	return b.last
}

// rest waits, and reports whether it was not cut short.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
