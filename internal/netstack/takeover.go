package netstack

import (
	"context"
	"net"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/smolvm/smolvm/internal/egress"
)

// Interceptor speaks for some hosts itself. It is asked about a connection that the
// policy allows, by the names that the guest was given the address for, and again
// once the connection has told which one it is for.
type Interceptor interface {
	Wants(name string, port uint16) bool
	// Take serves the guest's connection to its end. Dial makes a connection to the
	// same address, as long as the policy allows it.
	Take(guest net.Conn, name string, port uint16, dial func(context.Context) (net.Conn, error))
}

// wanted tells whether a connection may be the interceptor's.
func (n *Network) wanted(flow *flow) bool {
	return n.Intercept != nil && slices.ContainsFunc(flow.names, func(name string) bool {
		return n.Intercept.Wants(name, flow.to.Port())
	})
}

// takeOver waits until a connection has told its name in TLS, and hands it over
// where the interceptor wants it and the policy allows it. Else what was read goes on
// as the connection's begin, which the gate judges.
func (n *Network) takeOver(ctx context.Context, flow *flow, guest *guestEnd, host net.Conn) bool {
	prepare(guest.ep, shares[shareOf(n.flows.count(egress.TCP))].buffer)
	conn := gonet.NewTCPConn(guest.queue, guest.ep)
	stop := context.AfterFunc(ctx, func() {
		guest.ep.Abort()
		_ = conn.Close()
	})
	defer stop()
	guest.begun = n.helloOf(conn)
	name, ok, _ := tlsName(guest.begun)
	name, port := egress.Canonical(name), flow.to.Port()
	if !ok || !n.Intercept.Wants(name, port) || !n.Policy().Says(flow.begin.Look, name, port).Allowed {
		return false
	}
	flow.tells(told{name: name, port: port}, true)
	flow.sent(len(guest.begun))
	dial := &dialer{network: n, flow: flow, first: make(chan net.Conn, 1)}
	dial.first <- host
	n.Intercept.Take(&countedConn{conn, n, ctx.Done(), flow, guest.begun}, name, port, dial.dial)
	return true
}

// helloOf reads a TLS client's hello, or as much as shows that there is none. A guest
// that says nothing for long is not waited for.
func (n *Network) helloOf(conn net.Conn) (begun []byte) {
	_ = conn.SetReadDeadline(time.Now().Add(n.flows.patience))
	defer func() {
		n.flows.held.Add(-int64(len(begun)))
		_ = conn.SetReadDeadline(time.Time{})
	}()
	part := make([]byte, 4<<10)
	for len(begun) < maxHeld {
		got, err := conn.Read(part)
		begun = append(begun, part[:got]...)
		if n.flows.held.Add(int64(got)) > allHeld || err != nil {
			return begun
		}
		if begun[0] != recordHandshake {
			return begun
		}
		if _, _, more := tlsName(begun); !more {
			return begun
		}
	}
	return begun
}

// dialer makes the connections of one that was taken over: the first is there
// already.
type dialer struct {
	network *Network
	flow    *flow
	first   chan net.Conn
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	select {
	case conn := <-d.first:
		return conn, nil
	default:
	}
	if v := d.flow.review(d.network); !v.Allowed {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: refusedError(v.Reason)}
	}
	return d.network.connect(ctx, "tcp", d.flow.to)
}

type refusedError string

func (e refusedError) Error() string { return string(e) }

// countedConn is the guest's connection with what was read of it before.
type countedConn struct {
	net.Conn
	network *Network
	closed  <-chan struct{}
	flow    *flow
	begun   []byte
}

// Read gives what the guest sends.
func (c *countedConn) Read(p []byte) (int, error) {
	if len(c.begun) > 0 {
		n := copy(p, c.begun)
		c.begun = c.begun[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.flow.sent(n)
	if err == nil {
		err = c.network.outward.wait(c.closed, n)
	}
	return n, err
}

// Write sends to the guest.
func (c *countedConn) Write(p []byte) (int, error) {
	if err := c.network.inward.wait(c.closed, len(p)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.flow.received(n)
	return n, err
}
