package wire

import "net/netip"

// Addresses of the guest's network, which exists only between the guest and its
// supervisor: the same in every sandbox, as none can see another's. Seeds carry
// them; what was made with older versions has those of IPv4 only.
var (
	Guest4    = netip.MustParsePrefix("10.0.2.15/24")
	Gateway4  = netip.MustParsePrefix("10.0.2.2/24") // this computer, where ports of it were opened
	Resolver4 = netip.MustParsePrefix("10.0.2.3/24")
	Guest6    = netip.MustParsePrefix("fd5a:6d6f:6c76::15/64")
	Gateway6  = netip.MustParsePrefix("fd5a:6d6f:6c76::2/64")
	Resolver6 = netip.MustParsePrefix("fd5a:6d6f:6c76::3/64")
)

// MTU is that of the guest's card: the largest a packet of IPv4 fits in.
const MTU = 65520
