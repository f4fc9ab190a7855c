package fetch

import (
	"context"
	"time"
)

// patience is how long a place is tried again before it is given up.
type patience struct {
	tries    int           // in a row without progress
	unheard  int           // while it never gave any answer
	longest  time.Duration // that a server may ask to be left alone
	sameByte int           // how often a download may begin again at one byte
}

// The two kinds of patience. A download that ran for minutes waits for a network
// that comes back (about 15 s in all); a small file at the start of a command
// must not hold up somebody who is offline.
var (
	patient = patience{tries: 6, unheard: 3, longest: 2 * time.Minute, sameByte: 12}
	brief   = patience{tries: 3, unheard: 1, longest: 10 * time.Second, sameByte: 4}
)

const (
	firstWait   = 500 * time.Millisecond
	longestWait = 8 * time.Second
)

// backOff is how long to wait after the n-th failure in a row: twice as long each
// time, of which the half is by chance, so that those who were cut off together
// do not come back together.
func backOff(n int, jitter float64) time.Duration {
	d := longestWait
	if n < 10 { // no shift may overflow
		d = min(firstWait<<max(n-1, 0), longestWait)
	}
	return d/2 + time.Duration(jitter*float64(d/2))
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
