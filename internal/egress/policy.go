// Package egress decides what a sandbox may reach: pure values and functions
// over modes, rules, addresses and names. Inputs are a Policy, which lives in the
// sandbox's record, and what is known about a connection; the output is a
// Verdict with its reason. Nothing is kept on disk.
package egress

import (
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

// quicPort is where HTTP/3 is; it hides the name from whoever looks.
const quicPort = 443

// Connection is what is known when a guest begins one.
type Connection struct {
	Protocol Protocol
	To       netip.AddrPort
	Names    []string // canonical; by which this guest was given the address, and may still use it
	Own      bool     // the address is one of this computer's own
}

// Verdict is a decision.
type Verdict struct {
	Allowed bool
	Reason  string // of a refusal
	Rule    string // that would allow it, as ParseRule reads it; empty: none would
	// Named says that only a name allowed it: where the connection tells a name
	// itself, that one has to be allowed as well.
	Named bool
}

func refuse(rule, format string, args ...any) Verdict {
	return Verdict{Reason: fmt.Sprintf(format, args...), Rule: rule}
}

// Decide judges a connection.
func (p Policy) Decide(c Connection) Verdict {
	to := netip.AddrPortFrom(Plain(c.To.Addr()), c.To.Port())
	if p.Kind() == Off {
		return refuse("", "the sandbox's network is off")
	}
	for _, r := range p.Deny {
		if r.address(to.Addr(), to.Port()) || slices.ContainsFunc(c.Names, r.host) && r.port(to.Port()) {
			return refuse("", "the rule %q denies it", r)
		}
	}
	for _, r := range p.Allow {
		if r.address(to.Addr(), to.Port()) {
			return Verdict{Allowed: true}
		}
	}
	if what := Closed(to.Addr()); what != "" {
		return refuse(exact(c, to), "%s belongs to %s", to.Addr(), what)
	}
	if c.Own {
		return refuse(exact(c, to), "%s is an address of this computer", to.Addr())
	}
	if p.Kind() == Open {
		return Verdict{Allowed: true}
	}
	return p.byName(c, to)
}

// byName judges a connection to a public address that no rule names.
func (p Policy) byName(c Connection, to netip.AddrPort) Verdict {
	for _, name := range c.Names {
		if !p.allowsName(name, to.Port()) {
			continue
		}
		if c.Protocol == UDP && to.Port() == quicPort {
			return refuse(exact(c, to), "QUIC hides the name it is for; programs use TCP instead")
		}
		return Verdict{Allowed: true, Named: true}
	}
	if len(c.Names) > 0 {
		return refuse(fmt.Sprintf("%s:%d", c.Names[0], to.Port()), "no rule allows %s, port %d", c.Names[0], to.Port())
	}
	return refuse(exact(c, to), "no name that is allowed has the address %s", to.Addr())
}

// exact is the rule that names just one address.
func exact(c Connection, to netip.AddrPort) string {
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
		return refuse("", "the sandbox's network is off")
	}
	for _, r := range p.Deny {
		if r.host(name) && r.from == 0 {
			return refuse("", "the rule %q denies it", r)
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

// Says judges the name that a connection itself tells, after Decide allowed it
// by a name of its address.
func (p Policy) Says(name string, port uint16) Verdict {
	name = Canonical(name)
	for _, r := range p.Deny {
		if r.host(name) && r.port(port) {
			return refuse("", "the rule %q denies %s", r, name)
		}
	}
	if p.allowsName(name, port) {
		return Verdict{Allowed: true}
	}
	return refuse(fmt.Sprintf("%s:%d", name, port), "the connection asks for %q, which no rule allows", name)
}

// Host judges a connection to a port of this computer's loopback.
func (p Policy) Host(port uint16) Verdict {
	if p.Kind() == Off {
		return refuse("", "the sandbox's network is off")
	}
	if slices.Contains(p.Allow, HostPort(port)) && !slices.ContainsFunc(p.Deny, func(r Rule) bool { return r.host(HostName) && r.port(port) }) {
		return Verdict{Allowed: true}
	}
	return refuse(fmt.Sprintf("%s:%d", HostName, port), "port %d of this computer is not opened for the sandbox", port)
}

// HostPort is the rule that opens a port of this computer's loopback.
func HostPort(port uint16) Rule { return Rule{name: HostName, from: port, to: port} }

// Change is what a user changes of a policy.
type Change struct {
	Mode  Mode   `json:"mode,omitempty"` // empty: as it is
	Allow []Rule `json:"allow,omitempty"`
	Deny  []Rule `json:"deny,omitempty"`
}

// Changes tells whether there is anything to change.
func (c Change) Changes() bool { return c.Mode != "" || len(c.Allow)+len(c.Deny) > 0 }

// With is the policy after a change.
func (p Policy) With(c Change) Policy {
	if c.Mode != "" {
		p.Mode = c.Mode
	}
	return p.Allowing(c.Allow...).Denying(c.Deny...)
}
