package ui

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/smolvm/smolvm/internal/wire"
)

// Resizes reports the terminal's size whenever it changes, until stop is
// called; stop returns when the reporting has ended. A size that nobody takes is
// replaced by the newer one.
func (s *Streams) Resizes() (sizes <-chan wire.Size, stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	out, done := make(chan wire.Size, 1), make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() {
		for {
			select {
			case <-changed:
				replace(out, s.Size())
			case <-done:
				return
			}
		}
	})
	return out, sync.OnceFunc(func() {
		signal.Stop(changed)
		close(done)
		reporter.Wait()
	})
}

// replace puts size into the channel of one place, in front of nothing older.
func replace(out chan wire.Size, size wire.Size) {
	select {
	case <-out:
	default:
	}
	out <- size
}
