package netstack

import (
	"sync/atomic"
	"time"
)

const (
	// waitingLines is how many lines wait to be written.
	waitingLines = 1024
	// linesPerSecond bounds how many a guest can make, after a burst.
	linesPerSecond, linesBurst = 200, 2000
)

// journal passes lines on to who writes them. A guest never waits for that: lines
// that are too many, or come while the disk is slow, are counted and left out.
type journal struct {
	write func(Entry)
	lines chan Entry
	rate  *rate
	lost  atomic.Int64
	over  chan struct{} // closed when no more come
	done  chan struct{} // closed when all are written
}

// newJournal makes one; write nil: nothing is kept.
func newJournal(write func(Entry), now func() time.Time) *journal {
	return &journal{
		write: write, lines: make(chan Entry, waitingLines), rate: newRate(now, linesPerSecond, linesBurst),
		over: make(chan struct{}), done: make(chan struct{}),
	}
}

func (j *journal) tell(e Entry) {
	if j.write == nil {
		return
	}
	if !j.rate.take() {
		j.lost.Add(1)
		return
	}
	e.Lost = j.lost.Swap(0)
	select {
	case j.lines <- e:
	default:
		j.lost.Add(e.Lost + 1)
	}
}

// run writes until end is called.
func (j *journal) run() {
	defer close(j.done)
	for {
		select {
		case e := <-j.lines:
			j.write(e)
		case <-j.over:
			for len(j.lines) > 0 {
				j.write(<-j.lines)
			}
			return
		}
	}
}

// end writes what waits.
func (j *journal) end() {
	close(j.over)
	<-j.done
}
