package netstack

import (
	"cmp"
	"fmt"
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
	// maxMoving is how many datagrams may be on their way from one side to the other.
	maxMoving = 64
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
	Rule     string    `json:"rule,omitempty"` // that would allow it, or lifts its denial
	// Mode is one that would, where the network is off.
	Mode     egress.Mode `json:"mode,omitempty"`
	Sent     int64       `json:"sent_bytes"` // by the guest
	Received int64       `json:"received_bytes"`
	// Milliseconds is how long it has lasted.
	Milliseconds int64 `json:"milliseconds"`
	// Lost is how many lines in front of this one are left out.
	Lost int64 `json:"lost,omitempty"`
}

// judges decide about connections.
type judges interface {
	// known gives the names that the guest knows an address by now.
	known(netip.Addr) []string
	// judge decides about a connection to what has these names.
	judge(x *flow, names []string) egress.Verdict
	// Policy is what holds now.
	Policy() egress.Policy
}

// flows are the connections of a guest.
type flows struct {
	now    func() time.Time
	tell   func(Entry)
	chunks [len(shares)]*chunks // of each share
	large  *chunks              // for datagrams
	held   atomic.Int64         // bytes that all gates hold

	patience time.Duration // with what gates hold

	mu       sync.Mutex
	live     map[*flow]struct{}
	counts   map[egress.Protocol]int
	refusals []Entry
	begins   *rate
	closed   bool
	running  sync.WaitGroup
}

func newFlows(now func() time.Time, tell func(Entry)) *flows {
	f := &flows{
		now: now, tell: tell, large: newChunks(largestDatagram, maxMoving), patience: heldTime,
		live: map[*flow]struct{}{}, counts: map[egress.Protocol]int{}, begins: newRate(now, beginsPerSecond, beginsBurst),
	}
	for i, s := range shares {
		f.chunks[i] = newChunks(s.chunk, 0)
	}
	return f
}

// flow is one connection.
type flow struct {
	flows    *flows
	protocol egress.Protocol
	from, to netip.AddrPort
	names    []string       // that the guest knew the target by when it began
	begin    egress.Verdict // by which it was let in
	begun    time.Time

	up, back atomic.Int64

	mu      sync.Mutex
	verdict egress.Verdict
	told    told // last by the connection itself
	settled bool // and it will tell no other
	failure string
	aborted bool
	abort   []func()
}

// told is what a connection says that it is for.
type told struct {
	name    string // canonical
	port    uint16
	proxied bool // it asks a proxy for it
}

// limits are how many of each protocol there may be at a time.
var limits = map[egress.Protocol]int{egress.TCP: maxTCP, egress.UDP: maxUDP, egress.Echo: maxPings}

// enter enters a connection, or notes why it is refused and gives nil.
func (f *flows) enter(protocol egress.Protocol, from, to netip.AddrPort, by judges) *flow {
	x := &flow{flows: f, protocol: protocol, from: from, to: to, begun: f.now()}
	switch f.admit(x, by) {
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

// admit decides and counts in one step: a policy that changes meanwhile either
// decides here already, or finds the connection among those that it reviews.
func (f *flows) admit(x *flow, by judges) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return tooLate
	}
	x.names = by.known(x.to.Addr())
	x.verdict = by.judge(x, x.names)
	x.begin = x.verdict
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
	switch {
	case f.counts[protocol] >= limits[protocol]:
		return "the sandbox has too many connections open"
	case !f.begins.take():
		return "the sandbox begins too many connections in a short time"
	}
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

// review ends the connections that are no longer allowed. What the guest knew a
// target by when it began counts, however long ago that was.
func (f *flows) review(by judges) {
	for _, x := range f.list() {
		if v := x.review(by); !v.Allowed {
			x.refuse(v)
		}
	}
}

// review judges a connection again, as far as it has told what it is for.
func (x *flow) review(by judges) egress.Verdict {
	x.mu.Lock()
	told, settled := x.told, x.settled
	x.mu.Unlock()
	names := x.names
	if !told.proxied && (x.begin.Look == egress.Needed && told.name != "" || slices.Contains(names, told.name)) {
		names = []string{told.name}
	}
	v := by.judge(x, names)
	look := v.Look
	if told.proxied && look == egress.Proxied {
		look = egress.Needed
	}
	switch {
	case !v.Allowed:
	case look == egress.Needed && x.begin.Look < v.Look && !settled:
		return egress.Verdict{Reason: "it began before names were looked at"}
	case told.name != "":
		if said := by.Policy().Says(look, told.name, told.port); !said.Allowed {
			return said
		}
	}
	return v
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

// tells notes what the connection says; it is settled where it will say nothing else.
func (x *flow) tells(what told, settled bool) {
	what.name = egress.Canonical(what.name)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.told, x.settled = what, settled
}

// rule is one that would allow what the connection is for without looking at names.
func (x *flow) rule(port uint16) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch name := x.name(); {
	case name == "" || egress.IsWeb(port) && !x.told.proxied:
		return x.to.String()
	case egress.IsWeb(port):
		return "" // only the server itself, behind the proxy
	default:
		return fmt.Sprintf("%s:%d", name, port)
	}
}

// name is what the target is shown by. x.mu is held.
func (x *flow) name() string {
	if x.told.name == "" && len(x.names) > 0 {
		return x.names[0]
	}
	return x.told.name
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
		Time: x.begun.UTC(), Protocol: string(x.protocol), To: x.to.String(), Name: x.name(), Verdict: Allowed,
		Sent: x.up.Load(), Received: x.back.Load(), Milliseconds: x.flows.now().Sub(x.begun).Milliseconds(),
	}
	switch {
	case !x.verdict.Allowed:
		e.Verdict, e.Reason, e.Rule, e.Mode = Refused, x.verdict.Reason, x.verdict.Rule, x.verdict.Mode
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
