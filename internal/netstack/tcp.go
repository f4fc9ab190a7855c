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

// lingerTime is how long the guest may take to accept the last bytes of a
// connection that both sides have ended. So long it counts, as it takes memory.
const lingerTime = 15 * time.Second

// share is what one connection may hold: its buffers, one for each direction, and
// as much again on the way from one side to the other.
type share struct {
	below  int // so many connections
	buffer int64
	chunk  int
}

// largeBuffer is what one connection alone has.
const largeBuffer, smallBuffer = 512 << 10, 8 << 10

// shares are the connections' by how many there are: the more, the smaller. All
// together hold less than 48 MiB.
var shares = [...]share{
	{8, largeBuffer, 64 << 10},
	{32, 128 << 10, 32 << 10},
	{128, 32 << 10, 16 << 10},
	{maxTCP, smallBuffer, 4 << 10},
}

// shareOf is that of a connection beside count others.
func shareOf(count int) int {
	for i, s := range shares {
		if count < s.below {
			return i
		}
	}
	return len(shares) - 1
}

// stream carries one connection that the guest opens; the stack calls it in a
// goroutine of its own.
func (n *Network) stream(request *tcp.ForwarderRequest) {
	id := request.ID()
	from, to := addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)
	flow := n.flows.enter(egress.TCP, from, to, n)
	if flow == nil {
		request.Complete(true)
		return
	}
	defer flow.end()
	ctx, cancel := context.WithCancel(n.life)
	defer cancel()
	flow.onAbort(cancel)
	host, err := n.connect(ctx, "tcp", to)
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
	guest := guestEnd{ep: ep, queue: &queue, closed: make(chan struct{})}
	if n.wanted(flow) && n.takeOver(ctx, flow, &guest, host) {
		return
	}
	n.join(ctx, flow, guest, host)
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
	mine := shareOf(n.flows.count(egress.TCP))
	prepare(guest.ep, shares[mine].buffer)
	gate := flow.gate(n.Policy)
	defer gate.close()
	var once sync.Once
	abort := func() {
		once.Do(func() {
			close(guest.closed)
			guest.ep.Abort()
			reset(host)
		})
	}
	defer context.AfterFunc(ctx, abort)()
	var other sync.WaitGroup
	other.Go(func() {
		if err := n.up(flow, gate, guest, host, n.flows.chunks[mine]); err != nil {
			flow.fail(err)
			abort()
		}
	})
	if err := n.down(flow, gate, guest, host, n.flows.chunks[mine]); err != nil {
		flow.fail(err)
		abort()
	}
	other.Wait()
	guest.linger()
	once.Do(func() { guest.ep.Close() })
}

// up carries from the guest, and tells the other side its end.
func (n *Network) up(flow *flow, gate *gate, guest guestEnd, host net.Conn, c *chunks) error {
	err := guest.read(c, func(p []byte) error {
		if err := n.outward.wait(guest.closed, len(p)); err != nil {
			return err
		}
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
	rest, err := gate.rest()
	if err == nil && len(rest) > 0 {
		_, err = host.Write(rest)
	}
	if err != nil {
		return err
	}
	return closeWrite(host)
}

// down carries to the guest, and tells it the end.
func (n *Network) down(flow *flow, gate *gate, guest guestEnd, host net.Conn, c *chunks) error {
	err := readHost(host, c, func(p []byte) error {
		if err := n.inward.wait(guest.closed, len(p)); err != nil {
			return err
		}
		flow.received(len(p))
		gate.heard(p)
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

// linger waits until the guest has taken all, and breaks off if it does not.
func (g guestEnd) linger() {
	entry, ended := waiter.NewChannelEntry(waiter.EventHUp)
	g.queue.EventRegister(&entry)
	defer g.queue.EventUnregister(&entry)
	late := time.NewTimer(lingerTime)
	defer late.Stop()
	if g.ep.Readiness(waiter.EventHUp)&waiter.EventHUp != 0 {
		return
	}
	select {
	case <-ended:
	case <-g.closed:
	case <-late.C:
		g.ep.Abort()
	}
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
