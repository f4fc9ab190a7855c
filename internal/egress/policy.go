// Package egress decides what a sandbox may reach: pure values and functions
// over modes, rules, addresses and names. Inputs are a Policy, which lives in the
// sandbox's record, and what is known about a connection; the output is a
// Verdict with its reason. Nothing is kept on disk.
package egress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// HostName is the name by which a guest reaches the ports of this computer that
// were opened for it.
const HostName = "host.smolvm.internal"

// Mode is what a sandbox may reach where no rule says more.
type Mode string

// The modes.
const (
	Open       Mode = "open"       // the internet; nothing that is closed
	Off        Mode = "off"        // nothing at all
	Restricted Mode = "restricted" // what the rules allow
)

// ParseMode reads a mode; empty is Open.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case "":
		return Open, nil
	case Open, Off, Restricted:
		return m, nil
	}
	return "", fmt.Errorf("there is no network mode %.40q: use open, restricted or off", text)
}

// Policy is what one sandbox may reach. The zero Policy is open.
type Policy struct {
	Mode  Mode   `json:"mode,omitempty"` // empty: open
	Allow []Rule `json:"allow,omitempty"`
	Deny  []Rule `json:"deny,omitempty"` // goes before Allow
	// Rate is how many bytes a second may pass in each direction; 0: any number.
	Rate int64 `json:"rate,omitempty"`
}

// Kind is the mode, never empty.
func (p Policy) Kind() Mode {
	if p.Mode == "" {
		return Open
	}
	return p.Mode
}

// Allowing is the policy with more rules allowed, and no longer denied.
func (p Policy) Allowing(rules ...Rule) Policy {
	p.Allow, p.Deny = with(p.Allow, rules), without(p.Deny, rules)
	return p
}

// Denying is the policy with rules denied, and no longer allowed.
func (p Policy) Denying(rules ...Rule) Policy {
	p.Deny, p.Allow = with(p.Deny, rules), without(p.Allow, rules)
	return p
}

func with(have, more []Rule) []Rule {
	have = slices.Clone(have)
	for _, r := range more {
		if !slices.Contains(have, r) {
			have = append(have, r)
		}
	}
	return have
}

func without(have, less []Rule) []Rule {
	return slices.DeleteFunc(slices.Clone(have), func(r Rule) bool { return slices.Contains(less, r) })
}

// Protocol is what a guest sends.
type Protocol string

// The protocols that pass.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	Echo Protocol = "ping"
)

// Connection is what is known when a guest begins one.
type Connection struct {
	Protocol Protocol
	To       netip.AddrPort
	Names    []string // canonical; by which this guest was given the address, and may still use it
	Own      bool     // the address is one of this computer's own, or a broadcast of its networks
}

// Verdict is a decision.
type Verdict struct {
	Allowed bool
	Reason  string // of a refusal
	Rule    string // that would allow it, or lifts its denial, as ParseRule reads it; empty: none would
	Mode    Mode   // that would, where the network is off
	Look    Look   // at the names that the connection itself tells
	// Opaque says that it may be of a protocol that tells no name.
	Opaque bool
}

// Look is how far the names count that a connection itself tells, the strictest last.
type Look int

// The looks.
const (
	Blind   Look = iota // not at all
	Denied              // those that a rule denies are refused
	Proxied             // and where it is a proxy that is asked, its target has to be allowed
	Needed              // each has to be allowed
)

func refuse(rule, format string, args ...any) Verdict {
	return Verdict{Reason: fmt.Sprintf(format, args...), Rule: rule}
}

func isOff() Verdict { return Verdict{Reason: "the sandbox's network is off", Mode: Open} }

// denies is the refusal of what the rule denies. Whoever allows the same rule lifts
// that, unless it is one that may not be allowed.
func (r Rule) denies(what string) Verdict {
	lifts := r.String()
	if r.Opens() != nil {
		lifts = ""
	}
	return refuse(lifts, "the rule %q denies %s", r, what)
}

// Decide judges a connection.
func (p Policy) Decide(c Connection) Verdict {
	to := netip.AddrPortFrom(Plain(c.To.Addr()), c.To.Port())
	if p.Kind() == Off {
		return isOff()
	}
	for _, r := range p.Deny {
		if r.address(to.Addr(), to.Port()) || slices.ContainsFunc(c.Names, r.host) && r.port(to.Port()) {
			return r.denies("it")
		}
	}
	if p.allowsAddress(to, c.Own) {
		return Verdict{Allowed: true, Opaque: true, Look: p.lookAt(to.Port(), Proxied)}
	}
	if what := Closed(to.Addr()); what != "" {
		return refuse(exact(c, to), "%s belongs to %s", to.Addr(), what)
	}
	if c.Own {
		return refuse(exact(c, to), "%s is an address of this computer, or a broadcast of its network", to.Addr())
	}
	if p.Kind() == Open {
		return Verdict{Allowed: true, Opaque: true, Look: p.lookAt(to.Port(), Blind)}
	}
	return p.byName(c, to)
}

// allowsAddress tells whether a rule names an address by number. Ranges open what
// is closed only where they lie inside of it: who allows all of the internet has
// not thought of the neighbours.
func (p Policy) allowsAddress(to netip.AddrPort, own bool) bool {
	where, isClosed := closedPlace(to.Addr())
	return slices.ContainsFunc(p.Allow, func(r Rule) bool {
		switch {
		case !r.address(to.Addr(), to.Port()):
			return false
		case r.prefix.IsSingleIP():
			return true
		case own || isClosed && !where.whole:
			return false
		}
		return !isClosed || where.prefix.Bits() <= r.prefix.Bits()
	})
}

// lookAt is how to look at a connection that no name let in: as restricted in that
// mode, else for names that are denied, where there are any.
func (p Policy) lookAt(port uint16, restricted Look) Look {
	if p.Kind() == Restricted {
		return restricted
	}
	if slices.ContainsFunc(p.Deny, func(r Rule) bool { return r.name != "" && r.port(port) }) {
		return Denied
	}
	return Blind
}

// byName judges a connection to a public address that no rule names.
func (p Policy) byName(c Connection, to netip.AddrPort) Verdict {
	if len(c.Names) == 0 {
		return refuse(exact(c, to), "no name that is allowed has the address %s", to.Addr())
	}
	allowed, opaque := "", false
	for _, name := range c.Names {
		if p.allowsName(name, to.Port()) {
			allowed, opaque = cmp.Or(allowed, name), opaque || p.opaque(name, to.Port())
		}
	}
	switch {
	case allowed == "" && c.Protocol == Echo:
		return refuse(c.Names[0], "no rule allows %s, all ports", c.Names[0])
	case allowed == "":
		return refuse(atPort(c.Names[0], to.Port()), "no rule allows %s, port %d", c.Names[0], to.Port())
	case c.Protocol == UDP && IsWeb(to.Port()):
		return refuse(exact(c, to), "QUIC hides the name it is for; programs use TCP instead")
	case c.Protocol == UDP && !opaque:
		return refuse(atPort(allowed, to.Port()), "datagrams hide the name they are for: only a rule for just this port allows them")
	}
	return Verdict{Allowed: true, Look: Needed, Opaque: opaque}
}

// IsWeb tells whether names are always told at a port, by TLS or HTTP.
func IsWeb(port uint16) bool { return port == 80 || port == 443 }

// opaque tells whether a rule allows a name at just this port, which then may be of
// any protocol.
func (p Policy) opaque(name string, port uint16) bool {
	return !IsWeb(port) && slices.ContainsFunc(p.Allow, func(r Rule) bool { return r.host(name) && r.from == port && r.to == port })
}

// atPort is the rule for a name at one port.
func atPort(name string, port uint16) string { return fmt.Sprintf("%s:%d", name, port) }

// exact is the rule that names just one address; empty: none opens it.
func exact(c Connection, to netip.AddrPort) string {
	if where, ok := within(netip.PrefixFrom(to.Addr(), to.Addr().BitLen())); ok && where.self() {
		return ""
	}
	if c.Protocol == Echo {
		return to.Addr().String()
	}
	return to.String()
}

func (p Policy) allowsName(name string, port uint16) bool {
	return slices.ContainsFunc(p.Allow, func(r Rule) bool { return r.host(name) && r.port(port) })
}

// Resolve judges a question for a name.
func (p Policy) Resolve(name string) Verdict {
	name = Canonical(name)
	if p.Kind() == Off {
		return isOff()
	}
	for _, r := range p.Deny {
		if r.host(name) && r.from == 0 {
			return r.denies("it")
		}
	}
	if name == HostName {
		return Verdict{Allowed: true} // it leads to what Host judges
	}
	if p.Kind() == Open || slices.ContainsFunc(p.Allow, func(r Rule) bool { return r.host(name) }) {
		return Verdict{Allowed: true}
	}
	return refuse(name, "no rule allows the name")
}

// Says judges a name, or an address, that a connection itself tells, after Decide
// has said how to look at it.
func (p Policy) Says(look Look, name string, at uint16) Verdict {
	name, look = Canonical(name), p.Softened(look)
	number, err := netip.ParseAddr(name)
	number = Plain(number)
	isNumber := err == nil
	for _, r := range p.Deny {
		if r.port(at) && (r.host(name) || isNumber && r.address(number, at)) {
			return r.denies(name)
		}
	}
	switch {
	case !isNumber && !validName(name):
		return refuse("", "the connection asks for %.80q, which is no name", name)
	case look < Needed:
		return Verdict{Allowed: true, Look: look, Opaque: true}
	case isNumber && p.allowsAddress(netip.AddrPortFrom(number, at), false):
		return Verdict{Allowed: true, Look: Proxied, Opaque: true}
	case !isNumber && p.allowsName(name, at):
		return Verdict{Allowed: true, Look: Needed, Opaque: p.opaque(name, at)}
	case isNumber:
		return refuse(exact(Connection{}, netip.AddrPortFrom(number, at)), "the connection asks for %s, which no rule allows", name)
	}
	return refuse(atPort(name, at), "the connection asks for %q, which no rule allows", name)
}

// Softened is how to look under this policy at a connection that began under another.
func (p Policy) Softened(l Look) Look {
	if p.Kind() != Restricted {
		return min(l, Denied)
	}
	return l
}

// Watches tells whether names decide: then none may be hidden.
func (p Policy) Watches() bool {
	return p.Kind() == Restricted || slices.ContainsFunc(p.Deny, func(r Rule) bool { return r.name != "" })
}

// Host judges a connection to a port of this computer's loopback.
func (p Policy) Host(port uint16) Verdict {
	if p.Kind() == Off {
		return isOff()
	}
	for _, r := range p.Deny {
		if r.host(HostName) && r.port(port) {
			return r.denies("it")
		}
	}
	if slices.Contains(p.Allow, HostPort(port)) {
		return Verdict{Allowed: true}
	}
	return refuse(atPort(HostName, port), "port %d of this computer is not opened for the sandbox", port)
}

// HostPort is the rule that opens a port of this computer's loopback.
func HostPort(port uint16) Rule { return Rule{name: HostName, from: port, to: port} }

// Change is what a user changes of a policy.
type Change struct {
	Mode  Mode   `json:"mode,omitempty"` // empty: as it is
	Allow []Rule `json:"allow,omitempty"`
	Deny  []Rule `json:"deny,omitempty"`
	Rate  *int64 `json:"rate,omitempty"` // nil: as it is
}

// Changes tells whether there is anything to change.
func (c Change) Changes() bool { return c.Mode != "" || len(c.Allow)+len(c.Deny) > 0 || c.Rate != nil }

// With is the policy after a change.
func (p Policy) With(c Change) Policy {
	if c.Mode != "" {
		p.Mode = c.Mode
	}
	if c.Rate != nil {
		p.Rate = *c.Rate
	}
	return p.Allowing(c.Allow...).Denying(c.Deny...)
}
