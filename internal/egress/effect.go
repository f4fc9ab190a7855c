package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Opens tells why nothing is opened by allowing a rule, whatever the policy; nil
// where something is.
func (r Rule) Opens() error {
	if r.name != "" || !r.prefix.IsValid() {
		return nil
	}
	where, ok := within(r.prefix)
	if ok && where.self() {
		return fmt.Errorf("rule %q opens nothing: there a sandbox reaches itself; a port of this computer is opened as %s:PORT", r, HostName)
	}
	if !ok {
		where, ok = within(leadsInto(r.prefix))
		where.whole = false
	}
	if ok && !where.whole && !r.prefix.IsSingleIP() {
		return fmt.Errorf("rule %q opens nothing: of %s only single addresses are opened", r, where.what)
	}
	return nil
}

// Closes tells why nothing is closed by denying a rule, whatever the policy; nil where
// something is. The addresses are those by which a sandbox reaches this computer.
func (r Rule) Closes(computer ...netip.Addr) error {
	const instead = "a port of this computer is closed as " + HostName + ":PORT, all as *.smolvm.internal"
	if where, ok := within(r.prefix); ok && where.self() {
		return fmt.Errorf("rule %q closes nothing: there a sandbox reaches itself; %s", r, instead)
	}
	if r.prefix.IsSingleIP() && slices.Contains(computer, r.prefix.Addr()) {
		return fmt.Errorf("rule %q closes nothing: the address stands for this computer; %s", r, instead)
	}
	return nil
}

// within is the closed place that all of a range lies in.
func within(p netip.Prefix) (where place, ok bool) {
	for _, c := range closed {
		if p.IsValid() && c.prefix.Bits() <= p.Bits() && c.prefix.Contains(p.Addr()) {
			return c, true
		}
	}
	return place{}, false
}

// leadsInto is the range of IPv4 that a range of translated or tunnelled addresses
// leads into; not valid for others.
func leadsInto(p netip.Prefix) netip.Prefix {
	inner, ok := embedded(p.Addr())
	bits := p.Bits() - 96
	if sixToFour.Contains(p.Addr()) {
		bits = min(p.Bits()-16, 32)
	}
	if !ok || bits < 0 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(inner, bits)
}

// Idle tells why a rule that is allowed changes nothing under the policy as it is;
// empty where it does. It was denied until now where its denial is lifted by that.
func (p Policy) Idle(r Rule, lifted bool) string {
	if p.Kind() == Off {
		return "the network is off"
	}
	for _, d := range p.Deny {
		if d.covers(r) {
			return fmt.Sprintf("the rule %q denies it", d)
		}
	}
	if p.Kind() == Open && !lifted && r.name != "" && r.name != HostName {
		return "the network is open to all public addresses, and a private one is opened by its number, not by a name"
	}
	return ""
}

// covers tells whether all that another rule names is named by r.
func (r Rule) covers(other Rule) bool {
	if r.from != 0 && (other.from < r.from || other.to > r.to) {
		return false
	}
	if below, ok := strings.CutPrefix(r.name, "*"); ok {
		return strings.HasSuffix(other.name, below)
	}
	if r.name != "" || other.name != "" {
		return r.name == other.name
	}
	return r.prefix.IsValid() && other.prefix.IsValid() && r.prefix.Bits() <= other.prefix.Bits() && r.prefix.Contains(other.prefix.Addr())
}
