package netstack

import (
	"sync"
	"time"
)

// rate bounds how often something happens: burst times at once, and so many times
// in each second after that.
type rate struct {
	now           func() time.Time
	second, burst float64

	mu     sync.Mutex
	credit float64
	since  time.Time
}

func newRate(now func() time.Time, second, burst float64) *rate {
	return &rate{now: now, second: second, burst: burst, credit: burst, since: now()}
}

// take tells whether it may happen now.
func (r *rate) take() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.credit = min(r.burst, r.credit+max(0, now.Sub(r.since).Seconds())*r.second)
	r.since = now
	if r.credit < 1 {
		return false
	}
	r.credit--
	return true
}
