package netstack

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

const (
	// keptRefusals is how many of the last refusals are shown.
	keptRefusals = 32
	// begins bounds how many connections a guest may begin: at once, and in a second after that.
	beginsBurst, beginsPerSecond = 1500, 250
)

// The values of Entry.Verdict.
const (
	Allowed = "allowed"
	Refused = "refused"
	Failed  = "failed" // allowed, and could not be made or broke off
)

// Entry is what became of one connection, or question for a name.
type Entry struct {
	Time     time.Time `json:"time"` // of its begin
	Protocol string    `json:"protocol"`
	To       string    `json:"to,omitempty"`   // address and port
	Name     string    `json:"name,omitempty"` // that the guest knows the address by
	Verdict  string    `json:"verdict"`
	Reason   string    `json:"reason,omitempty"`
	Rule     string    `json:"rule,omitempty"` // that would allow it
	Sent     int64     `json:"sent_bytes"`     // by the guest
	Received int64     `json:"received_bytes"`
	// Milliseconds is how long it has lasted.
	Milliseconds int64 `json:"milliseconds"`
}

// judge decides about a connection and gives the names that the guest knows its target by.
type judge func(egress.Protocol, netip.AddrPort) (egress.Verdict, []string)

// flows are the connections of a guest.
type flows struct {
	now    func() time.Time
	tell   func(Entry)
	chunks *chunks

	mu       sync.Mutex
	live     map[*flow]struct{}
	counts   map[egress.Protocol]int
	refusals []Entry
	credit   float64 // connections that may begin now
	credited time.Time
	closed   bool
	running  sync.WaitGroup
}

func newFlows(now func() time.Time, tell func(Entry)) *flows {
	return &flows{
		now: now, tell: tell, chunks: newChunks(), live: map[*flow]struct{}{}, counts: map[egress.Protocol]int{},
		credit: beginsBurst, credited: now(),
	}
}

// flow is one connection.
type flow struct {
	flows    *flows
	protocol egress.Protocol
	to       netip.AddrPort
	name     string
	named    bool // see egress.Verdict
	begun    time.Time

	up, back atomic.Int64

	mu      sync.Mutex
	verdict egress.Verdict
	failure string
	aborted bool
	abort   []func()
}

// limits are how many of each protocol there may be at a time.
var limits = map[egress.Protocol]int{egress.TCP: maxTCP, egress.UDP: maxUDP, egress.Echo: maxPings}

// begin enters a connection, or notes why it is refused and gives nil.
func (f *flows) begin(protocol egress.Protocol, _, to netip.AddrPort, decide judge) *flow {
	x := &flow{flows: f, protocol: protocol, to: to, begun: f.now()}
	switch f.enter(x, decide) {
	case entered:
		return x
	case refused:
		f.refuse(x.entry())
	}
	return nil
}

// What became of a connection that asked to begin.
const (
	entered = iota
	refused
	tooLate // the network ends
)

// enter decides and counts in one step: a policy that changes meanwhile either
// decides here already, or finds the connection among those that it reviews.
func (f *flows) enter(x *flow, decide judge) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return tooLate
	}
	var names []string
	x.verdict, names = decide(x.protocol, x.to)
	x.named = x.verdict.Named
	if len(names) > 0 {
		x.name = names[0]
	}
	if limit := f.limit(x.protocol); x.verdict.Allowed && limit != "" {
		x.verdict = egress.Verdict{Reason: limit}
	}
	if !x.verdict.Allowed {
		return refused
	}
	f.live[x] = struct{}{}
	f.counts[x.protocol]++
	f.running.Add(1)
	return entered
}

// limit says which bound one more connection would break. f.mu is held.
func (f *flows) limit(protocol egress.Protocol) string {
	now := f.now()
	f.credit = min(beginsBurst, f.credit+now.Sub(f.credited).Seconds()*beginsPerSecond)
	f.credited = now
	switch {
	case f.credit < 1:
		return "the sandbox begins too many connections in a short time"
	case f.counts[protocol] >= limits[protocol]:
		return "the sandbox has too many connections open"
	}
	f.credit--
	return ""
}

// refuse notes a refusal.
func (f *flows) refuse(e Entry) {
	f.mu.Lock()
	f.refusals = slices.DeleteFunc(f.refusals, func(old Entry) bool { // asked again: told once
		return old.Protocol == e.Protocol && old.To == e.To && old.Name == e.Name
	})
	f.refusals = append(f.refusals, e)
	if len(f.refusals) > keptRefusals {
		f.refusals = slices.Delete(f.refusals, 0, len(f.refusals)-keptRefusals)
	}
	f.mu.Unlock()
	f.tell(e)
}

func (f *flows) count(protocol egress.Protocol) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[protocol]
}

// review ends the connections that are no longer allowed.
func (f *flows) review(decide judge) {
	for _, x := range f.list() {
		verdict, _ := decide(x.protocol, x.to)
		// A name's address may have been forgotten meanwhile: its connections go on
		// unless the rules have nothing to do with names.
		if !verdict.Allowed && !(x.named && verdict.Named) {
			x.refuse(verdict)
		}
	}
}

// abort breaks all connections off and waits for their ends. None begins any more.
func (f *flows) abort() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	for _, x := range f.list() {
		x.breakOff()
	}
	f.running.Wait()
}

func (f *flows) list() []*flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*flow, 0, len(f.live))
	for x := range f.live {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b *flow) int { return cmp.Or(a.begun.Compare(b.begun), a.to.Compare(b.to)) })
	return all
}

// end takes the connection out and writes its line.
func (x *flow) end() {
	x.flows.mu.Lock()
	delete(x.flows.live, x)
	x.flows.counts[x.protocol]--
	x.flows.mu.Unlock()
	if e := x.entry(); e.Verdict == Refused {
		x.flows.refuse(e)
	} else {
		x.flows.tell(e)
	}
	x.flows.running.Done()
}

func (x *flow) sent(n int)     { x.up.Add(int64(n)) }
func (x *flow) received(n int) { x.back.Add(int64(n)) }

// fail notes the first reason why a connection did not end in order.
func (x *flow) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failure == "" && err != nil {
		x.failure = err.Error()
	}
}

// refuse ends a connection that the policy does not allow after all.
func (x *flow) refuse(v egress.Verdict) {
	x.mu.Lock()
	x.verdict = v
	x.mu.Unlock()
	x.breakOff()
}

// onAbort says what breaks the connection off.
func (x *flow) onAbort(f func()) {
	x.mu.Lock()
	late := x.aborted
	x.abort = append(x.abort, f)
	x.mu.Unlock()
	if late {
		f()
	}
}

func (x *flow) breakOff() {
	x.mu.Lock()
	x.aborted = true
	all := slices.Clone(x.abort)
	x.mu.Unlock()
	for _, f := range all {
		f()
	}
}

func (x *flow) entry() Entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := Entry{
		Time: x.begun.UTC(), Protocol: string(x.protocol), To: x.to.String(), Name: x.name, Verdict: Allowed,
		Sent: x.up.Load(), Received: x.back.Load(), Milliseconds: x.flows.now().Sub(x.begun).Milliseconds(),
	}
	switch {
	case !x.verdict.Allowed:
		e.Verdict, e.Reason, e.Rule = Refused, x.verdict.Reason, x.verdict.Rule
	case x.failure != "":
		e.Verdict, e.Reason = Failed, x.failure
	}
	return e
}

// Snapshot is what a network does at a moment.
type Snapshot struct {
	Policy   egress.Policy `json:"policy"`
	Live     []Entry       `json:"live"`
	Refusals []Entry       `json:"refusals"` // the last, oldest first
}

// Snapshot tells what goes on.
func (n *Network) Snapshot() Snapshot {
	s := Snapshot{Policy: n.Policy(), Live: []Entry{}, Refusals: []Entry{}}
	for _, x := range n.flows.list() {
		s.Live = append(s.Live, x.entry())
	}
	n.flows.mu.Lock()
	defer n.flows.mu.Unlock()
	s.Refusals = append(s.Refusals, n.flows.refusals...)
	return s
}

func (n *Network) tell(e Entry) {
	if n.Journal != nil {
		n.Journal(e)
	}
}
