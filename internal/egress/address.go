package egress

import "net/netip"

// closed are the ranges that no policy opens but by naming them: what lies in
// them belongs to the host, to its neighbours, or to the machine it runs on.
var closed = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("169.254.169.254/32"), "a metadata service"},
	{netip.MustParsePrefix("169.254.170.2/32"), "a metadata service"},
	{netip.MustParsePrefix("100.100.100.200/32"), "a metadata service"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a metadata service"}, // Azure's, in a public range
	{netip.MustParsePrefix("192.0.0.192/32"), "a metadata service"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "a metadata service"},
	{netip.MustParsePrefix("fd20:ce::254/128"), "a metadata service"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private network"},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private network"},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private network"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a provider's shared network"},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local network"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved network"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved network"},
	{netip.MustParsePrefix("::/128"), "this host"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::/96"), "a reserved network"}, // IPv4 in a form long given up
	{netip.MustParsePrefix("fc00::/7"), "a private network"},
	{netip.MustParsePrefix("fe80::/10"), "a link-local network"},
	{netip.MustParsePrefix("fec0::/10"), "a private network"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("2001::/32"), "a tunnel to IPv4"}, // Teredo hides the address it leads to
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a translation to IPv4"},
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
	if !a.IsValid() {
		return "no address"
	}
	a = Plain(a)
	for _, c := range closed {
		if c.prefix.Contains(a) {
			return c.what
		}
	}
	if inner, ok := embedded(a); ok {
		return Closed(inner)
	}
	return ""
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
