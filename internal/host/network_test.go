package host

import (
	"net"
	"testing"
)

func TestNetworked(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1/8": false, "::1/128": false, "fe80::1/64": false, "169.254.7.1/16": false,
		"192.168.1.20/24": true, "2001:db8::2/64": true,
	} {
		ip, network, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		own := &net.IPNet{IP: ip, Mask: network.Mask}
		loopback := &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}
		if got := networked([]net.Addr{loopback, own}); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if networked(nil) {
		t.Error("no address at all is a network")
	}
}
