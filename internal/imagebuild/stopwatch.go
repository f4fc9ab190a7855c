package imagebuild

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
)

// stopwatch is a Sink that remembers how long the steps of a build took, and says
// at each step of the next one how long the rest will take.
type stopwatch struct {
	next event.Sink
	path string // of the remembered times

	mu    sync.Mutex
	known map[string]time.Duration // of the last build, by step; those done are removed
	taken map[string]time.Duration
}

// maxTimes bounds the file of remembered times in bytes; a recipe has few steps.
const maxTimes = 64 << 10

// timing is a Builder whose events pass a stopwatch.
func (b *Builder) timing(name string) *Builder {
	w := &stopwatch{
		next: b.sink, path: filepath.Join(b.cache.dir, "times", name+".json"),
		known: map[string]time.Duration{}, taken: map[string]time.Duration{},
	}
	if raw, err := os.ReadFile(w.path); err == nil && len(raw) <= maxTimes {
		_ = json.Unmarshal(raw, &w.known) // a damaged one knows nothing
	}
	timed := *b
	timed.sink = w
	return &timed
}

// Emit passes the event on.
func (w *stopwatch) Emit(e event.Event) {
	step := string(e.Stage) + " " + e.Object
	w.mu.Lock()
	switch e.Kind {
	case event.Start:
		if left := w.left(); left > 0 {
			e.Text = fmt.Sprintf("about %s left", left.Round(time.Second))
		}
	case event.Done:
		w.taken[step] = e.Elapsed
		delete(w.known, step)
	}
	w.mu.Unlock()
	w.next.Emit(e)
}

// left is how long the steps that are not done took last time.
func (w *stopwatch) left() (sum time.Duration) {
	for _, d := range w.known {
		sum += d
	}
	return sum
}

// keep remembers the times for the next build.
func (w *stopwatch) keep() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := json.Marshal(w.taken)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(w.path), 0o755)
	}
	if err == nil {
		err = writeAtomically(w.path, raw)
	}
	if err != nil {
		return fmt.Errorf("remember how long the build took: %w", err)
	}
	return nil
}
