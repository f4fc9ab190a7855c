package cli

import (
	"context"
	"os"
	"sync"

	"github.com/smolvm/smolvm/internal/ui"
)

// forceAfter is how many signals a program that is attached without a terminal
// may take before SmolVM itself gives in, as docker run does.
const forceAfter = 3

// signals decides what a signal to this process means: the end of the command,
// or a message to the program that is attached. A second Ctrl-C does not cut the
// cleaning up short.
type signals struct {
	cancel context.CancelFunc
	say    func(format string, args ...any)

	mu      sync.Mutex
	forward func(os.Signal) // nil: nothing is attached
	count   int
}

// watch handles signals until in is closed or ctx has ended and stop is called.
func watch(parent context.Context, in <-chan os.Signal, streams *ui.Streams) (ctx context.Context, s *signals, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	s = &signals{cancel: cancel, say: streams.Say}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case sig, open := <-in:
				if !open {
					return
				}
				s.handle(sig)
			case <-done:
				return
			}
		}
	})
	return ctx, s, func() {
		close(done)
		watcher.Wait()
		cancel()
	}
}

// handle takes one signal.
func (s *signals) handle(sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	switch {
	case s.forward != nil && s.count < forceAfter:
		s.forward(sig)
	case s.count == 1 || s.forward != nil:
		s.cancel()
	default:
		s.say("smolvm: cleaning up, one moment")
	}
}

// attach sends signals to f until the returned function is called.
func (s *signals) attach(f func(os.Signal)) (detach func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forward, s.count = f, 0
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forward, s.count = nil, 0
	}
}
