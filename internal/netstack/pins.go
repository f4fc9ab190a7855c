package netstack

import (
	"maps"
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
	maxPinned, maxNames = 2048, 8
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

// forget makes room: what is over, else the quarter that ends first.
func (p *pins) forget() {
	maps.DeleteFunc(p.all, func(_ netip.Addr, have []pin) bool { return !lastOf(have).After(p.now()) })
	if len(p.all) < maxPinned {
		return
	}
	ends := make([]netip.Addr, 0, len(p.all))
	for a := range p.all {
		ends = append(ends, a)
	}
	slices.SortFunc(ends, func(a, b netip.Addr) int { return lastOf(p.all[a]).Compare(lastOf(p.all[b])) })
	for _, a := range ends[:maxPinned/4] {
		delete(p.all, a)
	}
}

// lastOf is when the last of an address's names ends.
func lastOf(have []pin) (end time.Time) {
	for _, x := range have {
		if x.until.After(end) {
			end = x.until
		}
	}
	return end
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
