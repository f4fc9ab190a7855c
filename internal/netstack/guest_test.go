package netstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/wire"
)

// wireEnd is one end of a wire in memory.
type wireEnd struct {
	in, out chan []byte
	closed  chan struct{}
	once    *sync.Once
}

func newWire() (a, b *wireEnd) {
	left, right, closed, once := make(chan []byte, 64), make(chan []byte, 64), make(chan struct{}), &sync.Once{}
	return &wireEnd{left, right, closed, once}, &wireEnd{right, left, closed, once}
}

func (w *wireEnd) ReadFrame(p []byte) (int, error) {
	select {
	case frame := <-w.in:
		return copy(p, frame), nil
	case <-w.closed:
		return 0, net.ErrClosed
	}
}

func (w *wireEnd) WriteFrame(parts [][]byte) error {
	select {
	case w.out <- bytes.Join(parts, nil):
		return nil
	case <-w.closed:
		return net.ErrClosed
	}
}

func (w *wireEnd) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// guestCard is a nic with the guest's own address.
type guestCard struct{ *nic }

const guestMAC = tcpip.LinkAddress("\x52\x54\x00\x12\x34\x56")

func (guestCard) LinkAddress() tcpip.LinkAddress { return guestMAC }

// Capabilities says that the guest asks for its neighbours, as kernels do.
func (guestCard) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired
}

func (g guestCard) AddHeader(packet *stack.PacketBuffer) {
	header.Ethernet(packet.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: guestMAC, DstAddr: packet.EgressRoute.RemoteLinkAddress, Type: packet.NetworkProtocolNumber,
	})
}

func (g guestCard) receive() {
	frame := make([]byte, MaxFrame)
	for {
		size, err := g.link.ReadFrame(frame)
		if err != nil {
			return
		}
		copy(frame, gatewayMAC) // deliver looks for it
		g.deliver(frame[:size])
	}
}

// guest is a guest's own stack at the other end of the wire.
type guest struct {
	stack   *stack.Stack
	link    Link
	network *Network
	dialed  *dials
}

// dials are what the network would have connected to on this computer; nothing
// leaves it: each goes to a listener of the test that stands for the target.
type dials struct {
	mu    sync.Mutex
	to    []string
	stand map[string]string
}

func (d *dials) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.to = append(d.to, network+" "+address)
	stand, ok := d.stand[network+" "+address]
	d.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("the test has nothing for %s %s", network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, stand)
}

func (d *dials) stands(target, for_ string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stand[target] = for_
}

func (d *dials) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.to...)
}

// resolverOfTests is the address of the computer's resolver.
var resolverOfTests = netip.MustParseAddrPort("198.51.100.53:53")

func newGuest(t testing.TB, policy egress.Policy) *guest {
	return newGuestWith(t, Config{Policy: policy})
}

func newGuestWith(t testing.TB, c Config) *guest {
	t.Helper()
	ours, theirs := newWire()
	g := &guest{link: theirs, dialed: &dials{stand: map[string]string{}}}
	c.Dial = g.dialed.dial
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Own = func(a netip.Addr) bool { return a == netip.MustParseAddr("198.51.100.1") }
	c.Resolvers = func() []netip.AddrPort { return []netip.AddrPort{resolverOfTests} }
	network, err := New(ours, c)
	if err != nil {
		t.Fatal(err)
	}
	g.network = network
	var both sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	both.Go(func() {
		if err := network.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	g.boot(t, &both)
	t.Cleanup(func() {
		cancel()
		both.Wait()
		g.stack.Destroy()
	})
	return g
}

// boot makes the guest's stack.
func (g *guest) boot(t testing.TB, running *sync.WaitGroup) {
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	card1 := guestCard{newNIC(g.link)}
	if err := g.stack.CreateNIC(card, card1); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Prefix{wire.Guest4, wire.Guest6} {
		if err := g.stack.AddProtocolAddress(card, tcpip.ProtocolAddress{
			Protocol:          protocolOf(a.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(a.Addr()), PrefixLen: a.Bits()},
		}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
	}
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, Gateway: addressOf(wire.Gateway4.Addr()), NIC: card},
		{Destination: header.IPv6EmptySubnet, Gateway: addressOf(wire.Gateway6.Addr()), NIC: card},
	})
	running.Go(card1.receive)
}

func full(to netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: card, Addr: addressOf(to.Addr()), Port: to.Port()}
}

// tcp opens a connection as a program in the guest does.
func (g *guest) tcp(t testing.TB, to string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	at := netip.MustParseAddrPort(to)
	return gonet.DialContextTCP(ctx, g.stack, full(at), protocolOf(at.Addr()))
}

func (g *guest) udp(t testing.TB, to string) net.Conn {
	t.Helper()
	at := netip.MustParseAddrPort(to)
	target := full(at)
	conn, err := gonet.DialUDP(g.stack, nil, &target, protocolOf(at.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// serve listens on this computer's loopback, for a target.
func (g *guest) serve(t testing.TB, target string, handle func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.network.nic.Close() // ends what is still open
		running.Wait()
	})
	g.dialed.stands("tcp "+target, l.Addr().String())
}

// echoes sends back all it gets, then its end.
func echoes(conn net.Conn) {
	_, _ = io.Copy(conn, conn)
}

// serveUDP answers each datagram, for a target.
func (g *guest) serveUDP(t testing.TB, target string, answer func([]byte) []byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if out := answer(buf[:n]); out != nil {
				_, _ = conn.WriteTo(out, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		running.Wait()
	})
	g.dialed.stands("udp "+target, conn.LocalAddr().String())
}
