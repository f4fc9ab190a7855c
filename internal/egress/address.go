package egress

import "net/netip"

// place is a range of addresses that no policy opens but by naming it.
type place struct {
	prefix netip.Prefix
	what   string
	whole  bool // a rule may name all of it or a part; else only one address
}

func one(prefix, what string) place  { return place{netip.MustParsePrefix(prefix), what, false} }
func part(prefix, what string) place { return place{netip.MustParsePrefix(prefix), what, true} }

// What a guest that sends there reaches is itself: nothing opens these.
const (
	loopback = "loopback"
	thisHost = "this host"
)

func (p place) self() bool { return p.what == loopback || p.what == thisHost }

// closed are the places that belong to the host, to its neighbours, or to the
// machine it runs on. The first that has an address counts.
var closed = []place{
	one("169.254.169.254/32", "a metadata service"),
	one("169.254.170.2/32", "a metadata service"),
	one("100.100.100.200/32", "a metadata service"),
	one("168.63.129.16/32", "a metadata service"), // Azure's, in a public range
	one("192.0.0.192/32", "a metadata service"),
	one("fd00:ec2::254/128", "a metadata service"),
	one("fd20:ce::254/128", "a metadata service"),
	one("0.0.0.0/8", thisHost),
	one("127.0.0.0/8", loopback),
	part("10.0.0.0/8", "a private network"),
	part("172.16.0.0/12", "a private network"),
	part("192.168.0.0/16", "a private network"),
	part("100.64.0.0/10", "a provider's shared network"),
	part("169.254.0.0/16", "a link-local network"),
	part("192.0.0.0/24", "a reserved network"),
	part("192.88.99.0/24", "a tunnel to IPv6"), // whoever is the next relay of 6to4
	part("198.18.0.0/15", "a network for measurements"),
	one("224.0.0.0/4", "multicast"),
	one("255.255.255.255/32", "broadcast"),
	part("240.0.0.0/4", "a reserved network"),
	one("::/128", thisHost),
	one("::1/128", loopback),
	one("::/96", "a reserved network"),              // IPv4 in a form long given up
	one("::ffff:0:0:0/96", "a translation to IPv4"), // as stateless translators write it
	part("100::/64", "a reserved network"),
	part("5f00::/16", "a reserved network"),
	part("fc00::/7", "a private network"),
	part("fe80::/10", "a link-local network"),
	part("fec0::/10", "a private network"),
	one("ff00::/8", "multicast"),
	one("2001::/32", "a tunnel to IPv4"), // Teredo hides the address it leads to
	part("2001:2::/48", "a network for measurements"),
	one("64:ff9b:1::/48", "a translation to IPv4"),
}

// Ranges of IPv6 that carry an address of IPv4: whoever sends there reaches that.
var (
	wellKnownTranslation = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour            = netip.MustParsePrefix("2002::/16")
)

// Closed says what an address belongs to that is closed unless it is named;
// empty for a public one. Addresses of IPv4 in the clothes of IPv6 are judged as
// what they are.
func Closed(a netip.Addr) string {
	where, _ := closedPlace(Plain(a))
	return where.what
}

// closedPlace is the closed place that an address belongs to. Only one address at
// a time is named of those that lead to others.
func closedPlace(a netip.Addr) (where place, ok bool) {
	if !a.IsValid() {
		return place{what: "no address"}, true
	}
	for _, c := range closed {
		if c.prefix.Contains(a) {
			return c, true
		}
	}
	if inner, leads := embedded(a); leads {
		where, ok = closedPlace(inner)
		where.whole = false
	}
	return where, ok
}

// Leads is the address that packets to another end at: that of IPv4 which a
// translated or tunnelled one of IPv6 carries, else the plain address itself.
func Leads(a netip.Addr) netip.Addr {
	a = Plain(a)
	if inner, ok := embedded(a); ok {
		return inner
	}
	return a
}

// Plain is an address without zone and without the form of IPv6 that stands for IPv4.
func Plain(a netip.Addr) netip.Addr { return a.WithZone("").Unmap() }

// embedded is the address of IPv4 that a translated or tunnelled one leads to.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case wellKnownTranslation.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}
