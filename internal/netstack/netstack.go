// Package netstack is the network of one sandbox, made in this process: it takes
// the Ethernet frames of the guest's card, is every host that the guest talks to,
// and carries what the policy allows over ordinary sockets of this computer. It
// needs no rights, and changes nothing of the computer's interfaces, routes or
// firewall.
//
// Inputs are a Link, a policy and facts about the host; outputs are connections
// of this computer, what Snapshot tells, and the files that a Journal and a
// capture write. Nothing else is kept: a crash ends all connections.
package netstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
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

// card is the stack's one interface.
const card tcpip.NICID = 1

// Bounds of what a guest can make this process hold.
const (
	maxTCP     = 1056 // connections
	maxUDP     = 256  // flows
	maxOpening = 256  // connections being made
	maxLookups = 64   // questions being answered
	maxPings   = 32   // echo requests waiting for their answer
)

// Memory is what a process that has a network, and little besides, should take at
// most: where the garbage collector makes an effort. What guests can make it hold is
// less than half of it.
const Memory = 88 << 20

// Config is what a network is made of.
type Config struct {
	Policy egress.Policy
	// Resolvers are those that this computer asks, in order; asked for each question.
	Resolvers func() []netip.AddrPort
	// Own tells whether an address is one of this computer's.
	Own func(netip.Addr) bool
	// Dial makes a connection of this computer; nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Now  func() time.Time
	// Intercept speaks for some hosts in their place; may be nil.
	Intercept Interceptor
	// Journal gets a line for each connection that ended or was refused, one after the
	// other; may be nil.
	Journal func(Entry)
	// Capture gets every frame of the guest, in the format of pcap, up to MaxCapture
	// bytes; may be nil.
	Capture io.Writer
}

// MaxCapture is how long what Capture gets may become.
const MaxCapture = 1 << 30

// Network is the network of one sandbox.
type Network struct {
	Config
	stack *stack.Stack
	nic   *nic
	names *pins
	flows *flows
	asks  *rate // of questions for names
	lines *journal

	outward, inward *pace // of the guest's traffic

	mu     sync.Mutex
	policy egress.Policy

	life    context.Context //nolint:containedctx // of the connections that begin by themselves
	end     context.CancelFunc
	running sync.WaitGroup
}

// New makes a network on a link. It works once Run is called.
func New(link Link, c Config) (*Network, error) {
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTime, KeepAliveConfig: net.KeepAliveConfig{Enable: true}}).DialContext
	}
	n := &Network{
		Config: c, nic: newNIC(link), names: newPins(c.Now), policy: c.Policy, asks: newRate(c.Now, asksPerSecond, asksBurst),
		outward: newPace(c.Now, c.Policy.Rate), inward: newPace(c.Now, c.Policy.Rate),
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		}),
	}
	n.lines = newJournal(c.Journal, c.Now)
	n.flows = newFlows(c.Now, n.lines.tell)
	n.life, n.end = context.WithCancel(context.Background())
	if err := errors.Join(n.tune(), n.attach(), n.capture()); err != nil {
		n.stack.Destroy()
		return nil, fmt.Errorf("make the sandbox's network: %w", err)
	}
	n.handle()
	return n, nil
}

// tune bounds buffers and chooses what suits a wire without loss.
func (n *Network) tune() error {
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: smallBuffer, Default: smallBuffer, Max: largeBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: smallBuffer, Default: smallBuffer, Max: largeBuffer}
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &receive, &send, &moderate, &wait} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set %T: %s", option, err)
		}
	}
	return nil
}

// capture lets what is captured see all frames.
func (n *Network) capture() error {
	if n.Capture == nil {
		return nil
	}
	c, err := newCapture(n.Capture, MaxCapture, n.Now)
	if err != nil {
		return fmt.Errorf("begin to record its traffic: %w", err)
	}
	n.nic.watch(c.frame)
	return nil
}

// attach puts the card in and gives it the addresses that answer here.
func (n *Network) attach() error {
	if err := n.stack.CreateNIC(card, n.nic); err != nil {
		return fmt.Errorf("create the card: %s", err)
	}
	// It takes packets for any address, and answers from it.
	if err := n.stack.SetPromiscuousMode(card, true); err != nil {
		return fmt.Errorf("take all packets: %s", err)
	}
	if err := n.stack.SetSpoofing(card, true); err != nil {
		return fmt.Errorf("answer as anybody: %s", err)
	}
	var routes []tcpip.Route
	for _, own := range []netip.Prefix{wire.Gateway4, wire.Resolver4, wire.Gateway6, wire.Resolver6} {
		address := tcpip.ProtocolAddress{
			Protocol:          protocolOf(own.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: addressOf(own.Addr()), PrefixLen: own.Bits()},
		}
		if err := n.stack.AddProtocolAddress(card, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add the address %s: %s", own, err)
		}
	}
	for _, guest := range []netip.Prefix{wire.Guest4, wire.Guest6} {
		subnet, err := tcpip.NewSubnet(addressOf(guest.Masked().Addr()), tcpip.MaskFromBytes(net.CIDRMask(guest.Bits(), guest.Addr().BitLen())))
		if err != nil {
			return err
		}
		routes = append(routes, tcpip.Route{Destination: subnet, NIC: card})
	}
	n.stack.SetRouteTable(routes)
	return nil
}

// handle says who takes the packets that no connection has asked for.
func (n *Network) handle() {
	streams := tcp.NewForwarder(n.stack, largeBuffer, maxOpening, n.stream)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, streams.HandlePacket)
	datagrams := udp.NewForwarder(n.stack, n.datagram)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, datagrams.HandlePacket)
	n.stack.SetTransportProtocolHandler(icmp.ProtocolNumber4, n.echo)
	n.stack.SetTransportProtocolHandler(icmp.ProtocolNumber6, n.echo)
}

// Run carries frames until the link ends, which is no error, or ctx does.
func (n *Network) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, n.nic.Close)
	defer stop()
	go n.lines.run()
	defer n.lines.end()
	err := n.serveNames()
	if err == nil {
		err = n.nic.receive()
	}
	n.end()
	n.nic.Close()
	n.flows.abort()
	n.stack.Destroy()
	n.running.Wait()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Policy is what holds now.
func (n *Network) Policy() egress.Policy {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.policy
}

// SetPolicy changes what holds, and ends the connections that it no longer allows.
func (n *Network) SetPolicy(p egress.Policy) {
	n.mu.Lock()
	n.policy = p
	n.mu.Unlock()
	n.outward.set(p.Rate)
	n.inward.set(p.Rate)
	n.flows.review(n)
}

// isHost tells whether an address stands for this computer.
func isHost(a netip.Addr) bool { return a == wire.Gateway4.Addr() || a == wire.Gateway6.Addr() }

// known gives the names that the guest knows an address by.
func (n *Network) known(a netip.Addr) []string {
	if a = egress.Plain(a); isHost(a) {
		return []string{egress.HostName}
	}
	return n.names.of(a)
}

// judge decides about one connection.
func (n *Network) judge(x *flow, names []string) egress.Verdict {
	policy, addr := n.Policy(), egress.Plain(x.to.Addr())
	if isHost(addr) {
		if x.protocol == egress.Echo {
			return egress.Verdict{Allowed: true}
		}
		return policy.Host(x.to.Port())
	}
	own := n.Own(addr) || n.Own(egress.Leads(addr))
	return policy.Decide(egress.Connection{Protocol: x.protocol, To: x.to, Names: names, Own: own})
}

// connect makes the connection of this computer that the guest asks for. Programs
// of this computer listen on either loopback.
func (n *Network) connect(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	four, six := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	targets := []netip.Addr{egress.Plain(to.Addr())}
	switch targets[0] {
	case wire.Gateway4.Addr():
		targets = []netip.Addr{four, six}
	case wire.Gateway6.Addr():
		targets = []netip.Addr{six, four}
	}
	var first error
	for _, target := range targets {
		conn, err := n.Dial(ctx, network, netip.AddrPortFrom(target, to.Port()).String())
		if err == nil {
			return conn, nil
		}
		first = cmp.Or(first, err)
	}
	return nil, first
}

func addressOf(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// addrPort is the address of one end of a packet.
func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
