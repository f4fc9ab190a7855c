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
	credit float64 // below 0: what is owed
	since  time.Time
}

func newRate(now func() time.Time, second, burst float64) *rate {
	return &rate{now: now, second: second, burst: burst, credit: burst, since: now()}
}

// take tells whether it may happen now.
func (r *rate) take() bool { return r.takes(1) }

// takes tells whether it may happen n times now.
func (r *rate) takes(n float64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.earn(); r.credit < n {
		return false
	}
	r.credit -= n
	return true
}

// owe lets it happen n times, and gives how long that would have had to wait. A
// negative n gives back.
func (r *rate) owe(n float64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.earn()
	r.credit -= n
	return time.Duration(max(0, -r.credit/r.second) * float64(time.Second))
}

// earn adds what the time has brought. r.mu is held.
func (r *rate) earn() {
	now := r.now()
	r.credit = min(r.burst, r.credit+max(0, now.Sub(r.since).Seconds())*r.second)
	r.since = now
}
