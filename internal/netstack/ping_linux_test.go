package netstack

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/process"
)

// pingsApart tells the test binary that it runs in namespaces of its own.
const pingsApart = "SMOLVM_TEST_PINGS_APART"

// TestPingsBesideEachOther lets several programs of the guest ping at once, with the
// same identifier and the same numbers, as programs do that choose them by
// themselves. Each has to get its own answers: from the address that it asked, with
// the identifier, number and bytes that it sent. What cannot be pinged is told.
func TestPingsBesideEachOther(t *testing.T) {
	if os.Getenv(pingsApart) == "" {
		runApart(t)
		return
	}
	var targets []netip.Addr
	for _, a := range []string{
		"203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::1", "2001:db8::1", "2001:db8::2",
		"10.0.0.5", "203.0.113.99", "2001:db8::99", // closed; no way leads there
	} {
		targets = append(targets, netip.MustParseAddr(a))
	}
	link := newPinged(t, egress.Policy{})
	const rounds, identifier, answering = 20, 4711, 7
	link.ping(t, targets[0], identifier, rounds, "nobody may yet")
	link.await(t, map[string]bool{fmt.Sprintf("%s refuses", targets[0]): true})
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
		t.Fatal(err)
	}
	for number := range uint16(rounds) {
		var sending sync.WaitGroup
		wanted := map[string]bool{}
		for pinger, to := range targets {
			text := fmt.Sprintf("pinger %d", pinger)
			want := fmt.Sprintf("%s answers %s, %d, %d", to, text, identifier, number)
			if pinger >= answering {
				want = fmt.Sprintf("%s refuses", to)
			}
			wanted[want] = true
			sending.Go(func() { link.ping(t, to, identifier, number, text) })
		}
		sending.Wait()
		link.await(t, wanted)
	}
}

// withHosts gives the loopback of a namespace addresses that stand for hosts.
const withHosts = `
set -e
ip link set lo up
for a in 203.0.113.1/32 203.0.113.2/32 203.0.113.3/32; do ip address add $a dev lo; done
for a in 2001:db8::1/128 2001:db8::2/128; do ip address add $a dev lo nodad; done
`

// runApart runs the calling test once more, in namespaces with hosts of their own.
func runApart(t *testing.T) {
	t.Helper()
	probe := exec.Command("sh", "-c", withHosts)
	process.InNamespaces(probe)
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("skipped: this host gives its users no networks of their own (or has no iproute2): %v %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", withHosts+`exec /proc/self/fd/3 "$@"`, "sh",
		"-test.v", "-test.timeout=60s", "-test.run=^"+t.Name()+"$")
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd.ExtraFiles = []*os.File{self}
	cmd.Env = append(os.Environ(), pingsApart+"=1")
	process.InNamespaces(cmd)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// pinged is the guest's end of a wire, without a stack.
type pinged struct{ *wireEnd }

func newPinged(t *testing.T, p egress.Policy) pinged {
	t.Helper()
	ours, theirs := newWire()
	network, err := New(ours, Config{Policy: p, Now: time.Now, Own: nobody, Resolvers: func() []netip.AddrPort { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := network.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return pinged{theirs}
}

// ping sends an echo request.
func (p pinged) ping(t *testing.T, to netip.Addr, identifier, number uint16, text string) {
	message := append(make([]byte, 8), text...)
	binary.BigEndian.PutUint16(message[4:], identifier)
	binary.BigEndian.PutUint16(message[6:], number)
	var packet []byte
	kind := uint16(header.IPv4ProtocolNumber)
	if to.Is4() {
		message[0] = byte(header.ICMPv4Echo)
		header.ICMPv4(message).SetChecksum(^checksum.Checksum(message, 0))
		h := header.IPv4(make([]byte, header.IPv4MinimumSize))
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(h) + len(message)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: addressOf(guest4), DstAddr: addressOf(to),
		})
		h.SetChecksum(^h.CalculateChecksum())
		packet = append(h, message...)
	} else {
		message[0] = byte(header.ICMPv6EchoRequest)
		sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, addressOf(guest6), addressOf(to), uint16(len(message)))
		header.ICMPv6(message).SetChecksum(^checksum.Checksum(message, sum))
		h := header.IPv6(make([]byte, header.IPv6MinimumSize))
		h.Encode(&header.IPv6Fields{
			PayloadLength: uint16(len(message)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64,
			SrcAddr: addressOf(guest6), DstAddr: addressOf(to),
		})
		kind, packet = uint16(header.IPv6ProtocolNumber), append(h, message...)
	}
	ethernet := append([]byte(gatewayMAC+guestMAC), byte(kind>>8), byte(kind))
	if err := p.WriteFrame([][]byte{ethernet, packet}); err != nil {
		t.Error(err)
	}
}

// await reads what comes until all that is wanted has.
func (p pinged) await(t *testing.T, wanted map[string]bool) {
	t.Helper()
	late := time.AfterFunc(15*time.Second, func() { _ = p.Close() })
	defer late.Stop()
	frame := make([]byte, MaxFrame)
	for len(wanted) > 0 {
		size, err := p.ReadFrame(frame)
		if err != nil {
			t.Fatalf("%v; still wanted: %v", err, wanted)
		}
		got := toldBy(frame[header.EthernetMinimumSize:size])
		if got != "" && !wanted[got] {
			t.Fatalf("%q came; wanted were %v", got, wanted)
		}
		delete(wanted, got)
	}
}

// toldBy is what a packet says of a ping; empty: nothing.
func toldBy(packet []byte) string {
	var from tcpip.Address
	var message []byte
	switch packet[0] >> 4 {
	case 4:
		h := header.IPv4(packet)
		from, message = h.SourceAddress(), h.Payload()
		if h.TransportProtocol() != header.ICMPv4ProtocolNumber {
			return ""
		}
	case 6:
		h := header.IPv6(packet)
		from, message = h.SourceAddress(), h.Payload()
		if h.NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
			return ""
		}
	}
	switch message[0] {
	case byte(header.ICMPv4EchoReply), byte(header.ICMPv6EchoReply):
		return fmt.Sprintf("%s answers %s, %d, %d", from, message[8:], binary.BigEndian.Uint16(message[4:]), binary.BigEndian.Uint16(message[6:]))
	case byte(header.ICMPv4DstUnreachable), byte(header.ICMPv6DstUnreachable):
		return fmt.Sprintf("%s refuses", from)
	}
	return ""
}
