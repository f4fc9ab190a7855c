package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/smolvm/smolvm/internal/egress"
)

// sink is a link that swallows what the network sends.
type sink struct{ closed chan struct{} }

func (s sink) ReadFrame([]byte) (int, error) { <-s.closed; return 0, net.ErrClosed }
func (s sink) WriteFrame([][]byte) error     { return nil }
func (s sink) Close() error                  { close(s.closed); return nil }

// FuzzFrames gives the network frames as a hostile guest would. It must survive
// them, and connect nowhere but where the policy lets it.
func FuzzFrames(f *testing.F) {
	for _, seed := range frames() {
		f.Add(seed)
	}
	n, err := New(sink{make(chan struct{})}, Config{
		Policy: egress.Policy{Mode: egress.Off}, Now: time.Now, Own: nobody,
		Dial: dialNothing(f),
	})
	if err != nil {
		f.Fatal(err)
	}
	if err := n.serveNames(); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, frame []byte) {
		if len(frame) > MaxFrame {
			return
		}
		n.nic.deliver(frame)
		if len(frame) >= header.EthernetMinimumSize { // and as one that is for us
			frame = append([]byte(nil), frame...)
			copy(frame, gatewayMAC)
			n.nic.deliver(frame)
		}
	})
}

// frames are valid ones to start from: ARP, TCP, UDP, ICMP, a fragment, IPv6.
func frames() [][]byte {
	ethernet := func(kind uint16, payload ...byte) []byte {
		return append(append([]byte(gatewayMAC+guestMAC), byte(kind>>8), byte(kind)), payload...)
	}
	ip4 := func(protocol byte, fragment uint16, payload ...byte) []byte {
		h := header.IPv4(make([]byte, 20))
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(20 + len(payload)), TTL: 64, Protocol: protocol, Flags: uint8(fragment >> 13), FragmentOffset: fragment & 0x1fff << 3,
			SrcAddr: addressOf(guest4), DstAddr: addressOf(target4),
		})
		h.SetChecksum(^h.CalculateChecksum())
		return ethernet(0x0800, append(h, payload...)...)
	}
	ip6 := make([]byte, 40)
	header.IPv6(ip6).Encode(&header.IPv6Fields{PayloadLength: 8, TransportProtocol: 58, HopLimit: 64, SrcAddr: addressOf(guest6), DstAddr: addressOf(target6)})
	return [][]byte{
		ethernet(0x0806, 0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2),
		ip4(6, 0, 0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0),
		ip4(17, 0, 0x30, 0x39, 0, 53, 0, 8, 0, 0),
		ip4(1, 0, 8, 0, 0, 0, 0, 1, 0, 1),
		ip4(17, 0x2000, 0x30, 0x39, 0, 53, 0, 8, 0, 0),
		ip4(17, 0x0001, 1, 2, 3, 4, 5, 6, 7, 8),
		ethernet(0x86dd, append(ip6, 128, 0, 0, 0, 0, 1, 0, 1)...),
		ethernet(0x8100, 0, 1, 8, 0),
		{},
	}
}

var errNowhere = errors.New("nothing may be dialled")

var (
	guest4, target4 = netip.MustParseAddr("10.0.2.15"), netip.MustParseAddr("203.0.113.7")
	guest6, target6 = netip.MustParseAddr("fd5a:6d6f:6c76::15"), netip.MustParseAddr("2001:db8::7")
)

func nobody(netip.Addr) bool { return false }

func dialNothing(f *testing.F) func(context.Context, string, string) (net.Conn, error) {
	return func(_ context.Context, network, address string) (net.Conn, error) {
		f.Errorf("%s %s was dialled", network, address)
		return nil, errNowhere
	}
}
