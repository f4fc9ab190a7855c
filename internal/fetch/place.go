package fetch

import (
	"errors"
	"time"
)

// place is one base address and what Mirrors learned of it. Mirrors' lock guards it.
type place struct {
	address string // of the manifest there
	shown   string // its base, for messages

	struck  error                // why it is not asked for anything again; nil: it may be
	without map[string]error     // files that it does not deliver, and why
	whole   map[string]bool      // files of which it delivers no spans
	states  map[string]validator // what it said of each file at first
	opened  map[start]int        // how often a download began there

	heard     bool      // it answered at least once
	incidents int       // failures in all; those of one moment count once
	failures  int       // in a row, for the back-off
	fruitless int       // in a row while nothing arrived by any stream, for giving up
	delivered int64     // since the last failure
	ready     time.Time // not asked before
	last      error     // the last failure
}

// start is the first byte of a span of a file.
type start struct {
	file string
	from int64
}

func newPlace(address string) *place {
	return &place{
		address: address, shown: placeOf(address),
		without: map[string]error{}, whole: map[string]bool{}, states: map[string]validator{}, opened: map[start]int{},
	}
}

// at is the address of a file at the place; no name is the address itself.
func (p *place) at(file string) string {
	if file == "" {
		return p.address
	}
	return Beside(p.address, file)
}

// why is why the place does not deliver a file; nil: it still may.
func (p *place) why(file string, limit patience) error {
	switch {
	case p.struck != nil:
		return p.struck
	case p.without[file] != nil:
		return p.without[file]
	case p.fruitless >= limit.tries, !p.heard && p.fruitless >= limit.unheard:
		return p.last
	}
	return nil
}

// before orders two places that may both be asked now, or later.
func (p *place) before(q *place, now time.Time) bool {
	pReady, qReady := !p.ready.After(now), !q.ready.After(now)
	switch {
	case pReady != qReady:
		return pReady
	case !pReady:
		return p.ready.Before(q.ready)
	}
	return p.failures < q.failures // equal: the order in which they were given
}

// progressed counts bytes. Enough of them make up for the failures before: what
// the rate floor asks of a connection, or all of a small file.
func (p *place) progressed(n, enough int64) {
	p.delivered += n
	if p.delivered >= enough {
		p.failures, p.fruitless = 0, 0
	}
}

// failed counts a failure after which the place may be asked again.
func (p *place) failed(err error, now time.Time, wait func(failures int) time.Duration) {
	p.incidents++
	p.failures++
	p.fruitless++
	p.delivered = 0
	p.last = err
	p.ready = now.Add(wait(p.failures))
	if !errors.Is(err, ErrUnreachable) {
		p.heard = true
	}
}
