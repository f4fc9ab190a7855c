package sandbox_test

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// waiter is a writer that tells when a text has come.
type waiter struct {
	mu     sync.Mutex
	buf    bytes.Buffer
	change chan struct{}
}

func newWaiter() *waiter { return &waiter{change: make(chan struct{})} }

func (w *waiter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.change)
	w.change = make(chan struct{})
	return w.buf.Write(p)
}

func (w *waiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func (w *waiter) await(t *testing.T, text string) {
	late := time.After(30 * time.Second)
	for {
		w.mu.Lock()
		there, change := strings.Contains(w.buf.String(), text), w.change
		w.mu.Unlock()
		if there {
			return
		}
		select {
		case <-change:
		case <-late:
			t.Errorf("%q never came, only %q", text, w.String())
			return
		}
	}
}

// newPipe is a connection with both ends in this process.
func newPipe() (ours, theirs net.Conn) { return net.Pipe() }

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
