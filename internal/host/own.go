package host

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownAge is how old the list of addresses may get: they change when networks do.
const ownAge = 2 * time.Second

// Addresses are this computer's own, looked up again now and then.
type Addresses struct {
	Now  func() time.Time
	List func() ([]net.Addr, error) // nil: net.InterfaceAddrs

	mu   sync.Mutex
	read time.Time
	all  map[netip.Addr]bool // nil: they cannot be told
}

// Own tells whether an address is one of this computer's, or stands for all
// computers of a network that it is in. Where that cannot be told, every address
// counts as one.
func (a *Addresses) Own(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.Now(); a.all == nil || now.Sub(a.read).Abs() > ownAge {
		a.read, a.all = now, a.look()
	}
	return a.all == nil || a.all[addr.WithZone("").Unmap()]
}

func (a *Addresses) look() map[netip.Addr]bool {
	list := a.List
	if list == nil {
		list = net.InterfaceAddrs
	}
	found, err := list()
	if err != nil {
		return nil
	}
	all := map[netip.Addr]bool{}
	for _, f := range found {
		if prefix, err := netip.ParsePrefix(f.String()); err == nil {
			all[prefix.Addr().WithZone("").Unmap()] = true
			for _, a := range broadcasts(prefix) {
				all[a] = true
			}
		}
	}
	return all
}

// broadcasts are the addresses that all computers of a network of IPv4 listen to:
// the last, and the first, as was the rule once.
func broadcasts(prefix netip.Prefix) []netip.Addr {
	if !prefix.Addr().Is4() || prefix.Bits() > 30 {
		return nil
	}
	first := prefix.Masked().Addr()
	last := first.As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|1<<(32-prefix.Bits())-1)
	return []netip.Addr{first, netip.AddrFrom4(last)}
}
