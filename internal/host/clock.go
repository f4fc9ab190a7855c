package host

import (
	"context"
	"time"
)

const (
	// clockPeriod is how often the clock is looked at where nothing tells of a jump.
	clockPeriod = 5 * time.Second
	// clockStep is the least that counts as a jump: less is the clock being slewed.
	clockStep = time.Second
)

// pollClock calls tell whenever the wall clock has moved otherwise than time has
// passed: it was set, or the computer slept. It returns when ctx ends.
func pollClock(ctx context.Context, wall func() time.Time, tell func()) {
	ticker := time.NewTicker(clockPeriod)
	defer ticker.Stop()
	last, then := wall(), time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		current, now := wall(), time.Now()
		if jump := current.Round(0).Sub(last.Round(0)) - now.Sub(then); jump.Abs() >= clockStep {
			tell()
		}
		last, then = current, now
	}
}
