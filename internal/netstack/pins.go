package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// leastPin is how long a name stands for its address at least: programs connect
	// a while after they asked.
	leastPin = time.Minute
	// mostPin is how long at most, whatever the answer said.
	mostPin = 24 * time.Hour
	// maxPinned bounds the addresses, maxNames the names of one.
	maxPinned, maxNames = 4096, 16
)

// pins are the answers that the guest was given: which names it may mean by an
// address, and how long.
type pins struct {
	now func() time.Time

	mu  sync.Mutex
	all map[netip.Addr][]pin
}

type pin struct {
	name  string
	until time.Time
}

func newPins(now func() time.Time) *pins {
	return &pins{now: now, all: map[netip.Addr][]pin{}}
}

// add notes an answer.
func (p *pins) add(a netip.Addr, name string, ttl time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	until := p.now().Add(min(max(ttl, leastPin), mostPin))
	have := slices.DeleteFunc(p.all[a], func(x pin) bool {
		if x.name == name && x.until.After(until) {
			until = x.until
		}
		return x.name == name || !x.until.After(p.now())
	})
	if len(have) >= maxNames {
		have = have[1:] // the name not asked for for the longest time
	}
	if _, there := p.all[a]; !there && len(p.all) >= maxPinned {
		p.forget()
	}
	p.all[a] = append(have, pin{name, until})
}

// forget makes room: what is over, else what ends first.
func (p *pins) forget() {
	var first netip.Addr
	var end time.Time
	for a, have := range p.all {
		last := have[len(have)-1].until
		if !last.After(p.now()) {
			delete(p.all, a)
		} else if end.IsZero() || last.Before(end) {
			first, end = a, last
		}
	}
	if len(p.all) >= maxPinned {
		delete(p.all, first)
	}
}

// of gives the names an address stands for, the last asked for first.
func (p *pins) of(a netip.Addr) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, x := range slices.Backward(p.all[a]) {
		if x.until.After(p.now()) {
			names = append(names, x.name)
		}
	}
	return names
}
