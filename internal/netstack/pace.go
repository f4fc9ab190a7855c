package netstack

import (
	"net"
	"sync"
	"time"
)

// paceBurst is how much may pass at once after a rest: the largest datagram and
// chunk, and at high rates what passes in the time that a timer may be late.
const (
	paceBurst = 64 << 10
	paceLate  = 50 * time.Millisecond
)

// pace slows all connections of one direction together down to so many bytes a
// second. They wait, in the order in which they ask, with one chunk each; what comes
// meanwhile waits in their buffers, and datagrams that do not fit are lost.
type pace struct {
	now func() time.Time

	mu      sync.Mutex
	second  int64         // bytes; 0: any number
	bucket  *rate         // nil where there is no bound
	changed chan struct{} // closed when another bound holds
}

func newPace(now func() time.Time, second int64) *pace {
	p := &pace{now: now, changed: make(chan struct{})}
	p.set(second)
	return p
}

// set sets what holds from now on, for those too that wait already.
func (p *pace) set(second int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if second == p.second {
		return
	}
	p.second, p.bucket = second, nil
	if second > 0 {
		p.bucket = newRate(p.now, float64(second), max(paceBurst, float64(second)*paceLate.Seconds()))
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pace) bound() (*rate, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bucket, p.changed
}

// wait waits until n more bytes may pass. Closing closed ends that.
func (p *pace) wait(closed <-chan struct{}, n int) error {
	for {
		bucket, changed := p.bound()
		if bucket == nil {
			return nil
		}
		late := bucket.owe(float64(n))
		if late == 0 {
			return nil
		}
		timer := time.NewTimer(late)
		select {
		case <-timer.C:
			return nil
		case <-changed: // what is owed to a bound that is gone is forgiven
			timer.Stop()
		case <-closed:
			timer.Stop()
			bucket.owe(-float64(n))
			return net.ErrClosed
		}
	}
}
