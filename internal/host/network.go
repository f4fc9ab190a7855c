package host

import "net"

// Networked tells whether this computer has an address that others could answer to:
// one that is neither its own loopback's nor a link's. A computer that does not
// tell counts as one that has.
func Networked() bool {
	addresses, err := net.InterfaceAddrs()
	return err != nil || networked(addresses)
}

func networked(addresses []net.Addr) bool {
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}
