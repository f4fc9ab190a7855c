package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/smolvm/smolvm/internal/egress"
)

const (
	// dialTime is how long a connection may take to be made: a guest's own program
	// gives up first, or tries its next address.
	dialTime = 30 * time.Second
	// timeWait is how long the addresses of an ended connection rest. On a wire that
	// delays nothing there are no stray packets to wait for.
	timeWait = 5 * time.Second
)

// Buffers of one connection, for each direction. The more there are, the smaller:
// all together hold less than 64 MiB.
const (
	largeBuffer  = 512 << 10
	middleBuffer = 64 << 10
	smallBuffer  = 16 << 10

	largeUpTo  = 24  // connections
	middleUpTo = 128 // connections
)

// bufferFor is the buffer of a connection beside count others.
func bufferFor(count int) int64 {
	switch {
	case count < largeUpTo:
		return largeBuffer
	case count < middleUpTo:
		return middleBuffer
	}
	return smallBuffer
}

// stream carries one connection that the guest opens; the stack calls it in a
// goroutine of its own.
func (n *Network) stream(request *tcp.ForwarderRequest) {
	id := request.ID()
	from, to := addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)
	flow := n.flows.begin(egress.TCP, from, to, n.judge)
	if flow == nil {
		request.Complete(true)
		return
	}
	defer flow.end()
	ctx, cancel := context.WithCancel(n.life)
	defer cancel()
	flow.onAbort(cancel)
	host, err := n.Dial(ctx, "tcp", target(to))
	if err != nil {
		flow.fail(err)
		request.Complete(true)
		return
	}
	defer host.Close()
	var queue waiter.Queue
	ep, terr := request.CreateEndpoint(&queue)
	request.Complete(false)
	if terr != nil {
		flow.fail(errors.New(terr.String()))
		return
	}
	n.join(ctx, flow, guestEnd{ep: ep, queue: &queue, closed: make(chan struct{})}, host)
}

// prepare sets what a connection's endpoint needs.
func prepare(ep tcpip.Endpoint, size int64) {
	options := ep.SocketOptions()
	options.SetReceiveBufferSize(size, true)
	options.SetSendBufferSize(size, true)
	options.SetKeepAlive(true) // a guest that was reset forgets its connections
	interval, count := tcpip.KeepaliveIntervalOption(30*time.Second), 4
	first := tcpip.KeepaliveIdleOption(2 * time.Minute)
	_ = ep.SetSockOpt(&first)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, count)
}

// join carries bytes both ways until both sides are done or one breaks off.
func (n *Network) join(ctx context.Context, flow *flow, guest guestEnd, host net.Conn) {
	prepare(guest.ep, bufferFor(n.flows.count(egress.TCP)))
	var once sync.Once
	abort := func() {
		once.Do(func() {
			close(guest.closed)
			guest.ep.Abort()
			reset(host)
		})
	}
	defer context.AfterFunc(ctx, abort)()
	var both sync.WaitGroup
	both.Go(func() {
		if err := n.up(flow, guest, host); err != nil {
			flow.fail(err)
			abort()
		}
	})
	both.Go(func() {
		if err := n.down(flow, guest, host); err != nil {
			flow.fail(err)
			abort()
		}
	})
	both.Wait()
	once.Do(func() { guest.ep.Close() })
}

// up carries from the guest, and tells the other side its end.
func (n *Network) up(flow *flow, guest guestEnd, host net.Conn) error {
	gate := flow.gate(n.Policy)
	err := guest.read(n.flows.chunks, func(p []byte) error {
		flow.sent(len(p))
		open, err := gate.pass(p)
		if err == nil && len(open) > 0 {
			_, err = host.Write(open)
		}
		return err
	})
	if !errors.Is(err, io.EOF) {
		return err
	}
	if rest := gate.rest(); len(rest) > 0 {
		if _, err := host.Write(rest); err != nil {
			return err
		}
	}
	return closeWrite(host)
}

// down carries to the guest, and tells it the end.
func (n *Network) down(flow *flow, guest guestEnd, host net.Conn) error {
	err := readHost(host, n.flows.chunks, func(p []byte) error {
		flow.received(len(p))
		_, err := guest.Write(p)
		return err
	})
	if !errors.Is(err, io.EOF) {
		return err
	}
	if terr := guest.ep.Shutdown(tcpip.ShutdownWrite); terr != nil {
		return errReset
	}
	return nil
}

func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// reset breaks a connection off, so that the other side learns that it did not end in order.
func reset(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = conn.Close()
}
