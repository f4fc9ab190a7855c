package netstack

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/smolvm/smolvm/internal/egress"
)

// quiet is how long a flow of datagrams lives without any: what routers commonly grant.
const quiet = 90 * time.Second

// datagram begins a flow with its first datagram; the stack calls it while it
// reads frames, so it must not wait. What it does not handle is answered with
// "port unreachable".
func (n *Network) datagram(request *udp.ForwarderRequest) bool {
	id := request.ID()
	from, to := addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort)
	flow := n.flows.begin(egress.UDP, from, to, n.judge)
	if flow == nil {
		return false
	}
	host, err := n.Dial(n.life, "udp", target(to)) // makes no packet
	if err != nil {
		flow.fail(err)
		flow.end()
		return false
	}
	var queue waiter.Queue
	ep, terr := request.CreateEndpoint(&queue)
	if terr != nil {
		_ = host.Close()
		flow.end()
		return false
	}
	n.running.Go(func() {
		defer flow.end()
		n.exchange(flow, guestEnd{ep: ep, queue: &queue, closed: make(chan struct{})}, host)
	})
	return true
}

// exchange carries datagrams both ways until there have been none for a while.
func (n *Network) exchange(flow *flow, guest guestEnd, host net.Conn) {
	var once sync.Once
	end := func() {
		once.Do(func() {
			close(guest.closed)
			guest.ep.Close()
			_ = host.Close()
		})
	}
	defer end()
	flow.onAbort(end)
	alive := newIdle(quiet, end)
	defer alive.stop()
	var both sync.WaitGroup
	both.Go(func() {
		defer end()
		_ = guest.read(n.flows.chunks, func(p []byte) error {
			alive.touch()
			flow.sent(len(p))
			_, err := host.Write(p)
			return tolerate(err)
		})
	})
	both.Go(func() {
		defer end()
		for {
			err := readHost(host, n.flows.chunks, func(p []byte) error {
				alive.touch()
				flow.received(len(p))
				_, err := guest.Write(p)
				return err
			})
			if err = tolerate(err); err != nil {
				flow.fail(err)
				return
			}
		}
	})
	both.Wait()
}

// tolerate drops the errors that say something of one datagram, not of the flow.
func tolerate(err error) error {
	for _, passing := range []error{syscall.EMSGSIZE, syscall.ENOBUFS, syscall.EPERM} {
		if errors.Is(err, passing) {
			return nil
		}
	}
	return err
}
