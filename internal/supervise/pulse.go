package supervise

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
)

const (
	// pulseEvery is the time between two questions, which only a guest in use is asked.
	pulseEvery = 10 * time.Second
	// pulseMissed is after how many times more a question without an answer means that
	// the guest hangs. Emulated guests on a host with ten times the load that it can
	// carry answered within three.
	pulseMissed = 9
)

// asked is a guest that can be asked whether it lives.
type asked interface {
	// Ping returns nil as soon as the guest answers.
	Ping() error
}

// pulse finds out that a guest no longer answers, and ends what waits for it. Times
// are counted, not measured: those at which this computer slept do not count, and a
// clock that jumps makes one of them.
type pulse struct {
	lastWords func() []string // of the guest's console

	mu   sync.Mutex
	uses map[*use]bool
	hung error         // why the guest is taken to hang; nil: it is not
	lost chan struct{} // closed when it hangs, replaced when it answers again
}

// use is an operation that ends when the guest hangs.
type use struct{ end context.CancelCauseFunc }

func newPulse(lastWords func() []string) *pulse {
	return &pulse{lastWords: lastWords, uses: map[*use]bool{}, lost: make(chan struct{})}
}

// use begins an operation. Its context ends when the guest hangs, which is its cause.
func (p *pulse) use(ctx context.Context) (_ context.Context, end func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung != nil {
		return nil, nil, p.hung
	}
	ctx, cancel := context.WithCancelCause(ctx)
	u := &use{cancel}
	p.uses[u] = true
	return ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.uses, u)
		cancel(nil)
	}, nil
}

// watch asks the guest, while it is used or hangs, until ctx ends; the link has to
// end then, too.
func (p *pulse) watch(ctx context.Context, guest asked) {
	ticker := time.NewTicker(pulseEvery)
	defer ticker.Stop()
	var asking sync.WaitGroup
	defer p.answered() // the next boot is another guest
	defer asking.Wait()
	answers := make(chan error, 1)
	waits, missed := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-answers:
			waits = false
			if err == nil {
				missed = 0
				p.answered()
			}
		case <-ticker.C:
			if waits {
				if missed++; missed == pulseMissed {
					p.hang()
				}
				continue
			}
			if waits = p.cares(); waits {
				asking.Go(func() { answers <- guest.Ping() })
			}
		}
	}
}

// cares tells whether somebody wants to know.
func (p *pulse) cares() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.uses) > 0 || p.hung != nil
}

// hang ends all that waits for the guest.
func (p *pulse) hang() {
	err := errHangs(p.lastWords())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung != nil {
		return
	}
	p.hung = err
	for u := range p.uses {
		u.end(err)
	}
	close(p.lost)
}

// answered lets operations begin again.
func (p *pulse) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung != nil {
		p.hung, p.lost = nil, make(chan struct{})
	}
}

// hangs is closed when the guest hangs.
func (p *pulse) hangs() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func errHangs(lastWords []string) error {
	err := fmt.Errorf("the sandbox does not answer: it has not for %v", pulseMissed*pulseEvery)
	if len(lastWords) == 0 {
		err = fmt.Errorf("%w; its console stayed empty", err)
	} else {
		err = fmt.Errorf("%w; its console ended with:\n  %s", err, strings.Join(lastWords, "\n  "))
	}
	return &hungError{fault.New(fault.Boot, "It may be out of memory, or its system may have crashed: restart it with smolvm stop and start.", "%w", err)}
}

// hungError says that the guest hangs.
type hungError struct{ err error }

func (e *hungError) Error() string { return e.err.Error() }
func (e *hungError) Unwrap() error { return e.err }
