package host

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestPolledClock: a jump of the wall clock either way is told once, within
// seconds; time that passes, and a clock that is slewed, are not.
func TestPolledClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var off time.Duration
		now := func() time.Time { return time.Now().Add(off) }
		told := 0
		ctx, end := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			pollClock(ctx, now, func() { told++ })
		}()
		wait := func(d time.Duration) int {
			before := told
			time.Sleep(d)
			synctest.Wait()
			return told - before
		}
		if n := wait(time.Hour); n != 0 {
			t.Errorf("told %d times of an hour that passed", n)
		}
		off = 8 * time.Hour
		if n := wait(2 * clockPeriod); n != 1 {
			t.Errorf("told %d times of a night's sleep", n)
		}
		off -= 2 * time.Second
		if n := wait(2 * clockPeriod); n != 1 {
			t.Errorf("told %d times of a step back", n)
		}
		off += clockStep / 2
		if n := wait(2 * clockPeriod); n != 0 {
			t.Errorf("told %d times of a slewed clock", n)
		}
		end()
		<-done
	})
}
