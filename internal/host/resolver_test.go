package host

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestResolversOfTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n nameserver\tfe80::1%eth0 # why\nnameserver bad\nnameserver 127.0.0.53\nnameserver 192.0.2.4\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53"), netip.MustParseAddrPort("127.0.0.53:53"),
	}
	if got := Resolvers(file); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := Resolvers(file + ".none"); got != nil {
		t.Errorf("without a file: %v", got)
	}
}

func TestOwnAddressesFollowTheNetworks(t *testing.T) {
	now := time.Unix(1000, 0)
	list, failed := []net.Addr{&net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}}, error(nil)
	a := Addresses{Now: func() time.Time { return now }, List: func() ([]net.Addr, error) { return list, failed }}
	own := func(text string) bool { return a.Own(netip.MustParseAddr(text)) }
	if !own("192.0.2.7") || !own("::ffff:192.0.2.7") || own("192.0.2.8") {
		t.Error("own addresses are not told apart")
	}
	if !own("192.0.2.255") || !own("192.0.2.0") || own("192.0.2.254") {
		t.Error("broadcasts of its network are not told apart")
	}
	list, now = []net.Addr{&net.IPNet{IP: net.ParseIP("192.0.2.6"), Mask: net.CIDRMask(31, 32)}}, now.Add(ownAge+1)
	if own("192.0.2.7") {
		t.Error("a network of two has a broadcast")
	}
	list = []net.Addr{&net.IPNet{IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(64, 128)}}
	now = now.Add(ownAge + 1)
	if own("192.0.2.7") || !own("2001:db8::1") {
		t.Error("the list is not read again")
	}
	failed, now = errors.New("no"), now.Add(ownAge+1)
	if !own("192.0.2.8") {
		t.Error("what cannot be told is taken for foreign")
	}
}

func TestSearchedDomains(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	for text, want := range map[string][]string{
		"nameserver 192.0.2.1\nsearch corp.example. lab.example\n": {"corp.example", "lab.example"},
		"domain old.example\nsearch new.example .\n":               {"new.example"},
		"search .\n": nil, "search\n": nil, "": nil,
		"search a b c d e f g\n":       {"a", "b", "c", "d", "e", "f"},
		"search bad;domain ok.example": {"ok.example"},
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Searched(file); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if got := Searched(file + ".none"); got != nil {
		t.Errorf("without a file: %v", got)
	}
}
