//go:build linux

package network

import (
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// The expected bytes are those iproute2 sends for the same commands, on a
// little-endian machine.
func TestMessages(t *testing.T) {
	if native.Uint16([]byte{1, 0}) != 1 {
		t.Skip("big-endian machine")
	}
	for name, test := range map[string]struct {
		got  []byte
		want string
	}{
		"ip link set eth0 up": {
			linkUp(1, 2, 0),
			"20000000 1000 0500 01000000 00000000  00 00 0000 02000000 01000000 01000000",
		},
		"ip link set eth0 mtu 65520 up": {
			linkUp(1, 2, 65520),
			"28000000 1000 0500 01000000 00000000  00 00 0000 02000000 01000000 01000000  0800 0400 f0ff0000",
		},
		"ip addr replace 10.0.2.15/24 dev eth0": {
			addAddress(2, 2, netip.MustParsePrefix("10.0.2.15/24")),
			"28000000 1400 0505 02000000 00000000  02 18 80 00 02000000  0800 0200 0a00020f  0800 0100 0a00020f",
		},
		"ip route replace default via 10.0.2.2 dev eth0": {
			addRoute(3, 2, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.0.2.2")),
			"2c000000 1800 0505 03000000 00000000  02 00 00 00 fe 04 00 01 00000000  0800 0500 0a000202  0800 0400 02000000",
		},
		"ip route replace 10.1.0.0/16 via 10.0.2.9 dev eth0": {
			addRoute(4, 2, netip.MustParsePrefix("10.1.2.3/16"), netip.MustParseAddr("10.0.2.9")),
			"34000000 1800 0505 04000000 00000000  02 10 00 00 fe 04 00 01 00000000  0800 0100 0a010000  0800 0500 0a000209  0800 0400 02000000",
		},
	} {
		if diff := cmp.Diff(strings.ReplaceAll(test.want, " ", ""), hex.EncodeToString(test.got)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestAcknowledgement(t *testing.T) {
	answer := func(kind uint16, sequence uint32, errno unix.Errno) []byte {
		b := make([]byte, unix.SizeofNlMsghdr+4)
		native.PutUint16(b[4:], kind)
		native.PutUint32(b[8:], sequence)
		native.PutUint32(b[16:], uint32(-int32(errno)))
		return b
	}
	if err := acknowledgement(answer(unix.NLMSG_ERROR, 7, 0), 7); err != nil {
		t.Errorf("success: %v", err)
	}
	if err := acknowledgement(answer(unix.NLMSG_ERROR, 7, unix.EEXIST), 7); err != nil {
		t.Errorf("there already: %v", err)
	}
	if err := acknowledgement(answer(unix.NLMSG_ERROR, 7, unix.EPERM), 7); !errors.Is(err, unix.EPERM) {
		t.Errorf("refusal: %v", err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": make([]byte, 18), "other number": answer(unix.NLMSG_ERROR, 8, 0), "other type": answer(unix.NLMSG_DONE, 7, 0),
	} {
		if acknowledgement(b, 7) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func card(change func(*wire.Ethernet)) wire.NetworkConfig {
	e := wire.Ethernet{
		Match: wire.Match{Name: "e*"}, Addresses: []string{"10.0.2.15/24", "fd00::15/64"},
		Routes: []wire.Route{{To: "default", Via: "10.0.2.2"}, {To: "default", Via: "fd00::2"}, {To: "10.9.0.0/16", Via: "10.0.2.9"}},
	}
	if change != nil {
		change(&e)
	}
	return wire.NetworkConfig{Version: 2, Ethernets: map[string]wire.Ethernet{"primary": e}}
}

func TestNewPlans(t *testing.T) {
	plans, err := newPlans(card(nil))
	if err != nil || len(plans) != 1 {
		t.Fatalf("got %v, %v", plans, err)
	}
	var routes []string
	for _, r := range plans[0].routes {
		routes = append(routes, r.to.String()+" "+r.via.String())
	}
	want := []string{"0.0.0.0/0 10.0.2.2", "::/0 fd00::2", "10.9.0.0/16 10.0.2.9"}
	if diff := cmp.Diff(want, routes); diff != "" || plans[0].pattern != "e*" || len(plans[0].addresses) != 2 {
		t.Errorf("%+v (-want +got)\n%s", plans[0], diff)
	}
}

func TestWithoutIPv6(t *testing.T) {
	plans, err := newPlans(card(nil))
	if err != nil {
		t.Fatal(err)
	}
	p := withoutIPv6(plans)[0]
	if len(p.addresses) != 1 || !p.addresses[0].Addr().Is4() || len(p.routes) != 2 {
		t.Errorf("%+v", p)
	}
}

func TestNewPlansRefuses(t *testing.T) {
	for name, change := range map[string]func(*wire.Ethernet){
		"dhcp":           func(e *wire.Ethernet) { e.DHCP4 = true },
		"pattern":        func(e *wire.Ethernet) { e.Match.Name = "[" },
		"address":        func(e *wire.Ethernet) { e.Addresses = []string{"10.0.2.15"} },
		"gateway":        func(e *wire.Ethernet) { e.Routes = []wire.Route{{To: "default", Via: "router"}} },
		"destination":    func(e *wire.Ethernet) { e.Routes = []wire.Route{{To: "all", Via: "10.0.2.2"}} },
		"mixed families": func(e *wire.Ethernet) { e.Routes = []wire.Route{{To: "10.0.0.0/8", Via: "fd00::2"}} },
	} {
		if got, err := newPlans(card(change)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
	if _, err := newPlans(wire.NetworkConfig{Version: 1}); err == nil {
		t.Error("version 1 accepted")
	}
}

// inNamespace tells the test binary that it runs in a network namespace of its own.
const inNamespace = "SMOLVM_TEST_IN_NAMESPACE"

// TestKernelTakesTheMessages lets a real kernel judge the messages, in a network
// namespace whose only interface is loopback.
func TestKernelTakesTheMessages(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKernelTakesTheMessages$")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, unix.EPERM) {
			t.Skipf("user namespaces are not allowed here: %v", err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := Loopback(); err != nil {
		t.Fatal(err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		t.Fatalf("loopback is not up: %v, %v", lo, err)
	}
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	p := plan{
		mtu:       1400,
		addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fd00::15/64")},
		routes:    []route{{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.0.2.2")}},
	}
	for range 2 { // there already is fine
		if err := p.apply(c, lo.Index); err != nil {
			t.Fatal(err)
		}
	}
	if lo, err = net.InterfaceByName("lo"); err != nil || lo.MTU != 1400 {
		t.Errorf("packets of %d bytes, %v", lo.MTU, err)
	}
	addresses, err := lo.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range addresses {
		got = append(got, a.String())
	}
	if text := strings.Join(got, " "); !strings.Contains(text, "10.0.2.15/24") || !strings.Contains(text, "fd00::15/64") {
		t.Errorf("addresses %s", text)
	}
	if err := c.request(addAddress(c.next(), 9999, netip.MustParsePrefix("10.0.0.1/8"))); !errors.Is(err, unix.ENODEV) {
		t.Errorf("interface that is not there: %v", err)
	}
	if present, err := Present(card(nil)); present || err != nil {
		t.Errorf("present %v, %v", present, err)
	}
	if err := Configure(card(nil)); err == nil {
		t.Error("configured a card that is not there")
	}
}
