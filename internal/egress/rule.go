package egress

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// RuleHint says what rules look like.
const RuleHint = "A rule is a name, *.name, an address or a range of addresses, each with :PORT or :FROM-TO where only those are meant, " +
	"such as api.example.com:443, *.example.com, 10.0.0.5:3128 or [fd12::/16]:443."

// Rule names a place: a name, all names below one, or a range of addresses,
// with all ports or some. The zero Rule matches nothing.
type Rule struct {
	name   string       // lower case, without the last dot; with "*." in front: all below it
	prefix netip.Prefix // where name is empty
	from   uint16       // ports; 0: all
	to     uint16
}

// ParseRule reads a rule as a user writes it.
func ParseRule(text string) (Rule, error) {
	host, ports, err := cut(text)
	if err != nil {
		return Rule{}, err
	}
	r := Rule{}
	if r.from, r.to, err = parsePorts(ports); err != nil {
		return Rule{}, fmt.Errorf("rule %.200q: %w", text, err)
	}
	if prefix, ok := parsePrefix(host); ok {
		r.prefix = prefix
		return r, nil
	}
	name := Canonical(host)
	if !validName(strings.TrimPrefix(name, "*.")) {
		return Rule{}, fmt.Errorf("rule %.200q: %.200q is neither a name nor an address", text, host)
	}
	if name == HostName && (r.from == 0 || r.from != r.to) {
		return Rule{}, fmt.Errorf("rule %.200q: a port of this computer is opened by its number, %s:PORT", text, HostName)
	}
	r.name = name
	return r, nil
}

// cut separates the place from its ports.
func cut(text string) (host, ports string, err error) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		host, rest, closed := strings.Cut(inner, "]")
		ports, colon := strings.CutPrefix(rest, ":")
		if !closed || rest != "" && !colon || colon && ports == "" {
			return "", "", fmt.Errorf("rule %.200q: the brackets are not closed, or something else than :PORT follows", text)
		}
		return host, ports, nil
	}
	if strings.Count(text, ":") > 1 { // a bare address of IPv6
		return text, "", nil
	}
	host, ports, colon := strings.Cut(text, ":")
	if colon && ports == "" {
		return "", "", fmt.Errorf("rule %.200q: the port is missing", text)
	}
	return host, ports, nil
}

func parsePorts(text string) (from, to uint16, err error) {
	if text == "" {
		return 0, 0, nil
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	if err := cmp.Or(errA, errB); err != nil || a == 0 || a > b {
		return 0, 0, fmt.Errorf("%.40q is neither a port nor a range of ports", text)
	}
	return uint16(a), uint16(b), nil
}

func parsePrefix(text string) (netip.Prefix, bool) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		if a := prefix.Addr(); a.Is4In6() {
			return netip.Prefix{}, false
		}
		return prefix.Masked(), true
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), true
}

// Canonical is a name as it is compared: lower case, without the last dot.
func Canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// validName accepts what names of hosts look like. One that ends in a number is
// an address somebody mistyped: no top-level domain does.
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != ""
}

// String is the rule as a user writes it.
func (r Rule) String() string {
	host := r.name
	if host == "" {
		host = r.prefix.String()
		if r.prefix.IsSingleIP() {
			host = r.prefix.Addr().String()
		}
		if r.prefix.Addr().Is6() && r.from != 0 {
			host = "[" + host + "]"
		}
	}
	switch {
	case r.from == 0:
		return host
	case r.from == r.to:
		return host + ":" + strconv.Itoa(int(r.from))
	}
	return fmt.Sprintf("%s:%d-%d", host, r.from, r.to)
}

// MarshalText writes the rule as a user does.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads it.
func (r *Rule) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRule(string(text))
	return err
}

// address tells whether the rule names an address and port by number.
func (r Rule) address(a netip.Addr, port uint16) bool {
	return r.name == "" && r.prefix.IsValid() && r.prefix.Contains(a) && r.port(port)
}

// host tells whether the rule names a name, whatever the port.
func (r Rule) host(name string) bool {
	if below, ok := strings.CutPrefix(r.name, "*"); ok {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return r.name != "" && r.name == name
}

func (r Rule) port(port uint16) bool { return r.from == 0 || r.from <= port && port <= r.to }
