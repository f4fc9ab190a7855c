package netstack

import (
	"encoding/binary"
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
	flow := n.flows.enter(egress.UDP, from, to, n)
	if flow == nil {
		return false
	}
	host, err := n.connect(n.life, "udp", to) // makes no packet
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
	var other sync.WaitGroup
	other.Go(func() {
		defer end()
		_ = guest.read(n.flows.large, func(p []byte) error {
			alive.touch()
			if err := n.outward.wait(guest.closed, len(p)); err != nil {
				return err
			}
			flow.sent(len(p))
			if flow.hides(p) {
				n.unreachable(flow)
				flow.refuse(egress.Verdict{Reason: "QUIC hides the name it is for; programs use TCP instead"})
				return errReset
			}
			_, err := host.Write(p)
			return n.tolerate(flow, err)
		})
	})
	for {
		err := readHost(host, n.flows.large, func(p []byte) error {
			alive.touch()
			if err := n.inward.wait(guest.closed, len(p)); err != nil {
				return err
			}
			flow.received(len(p))
			_, err := guest.Write(p)
			return err
		})
		if err = n.tolerate(flow, err); err != nil {
			flow.fail(err)
			break
		}
	}
	end()
	other.Wait()
}

// tolerate drops the errors that say something of one datagram, not of the flow.
// That nobody listens is passed on to the guest.
func (n *Network) tolerate(flow *flow, err error) error {
	for _, passing := range []error{syscall.EMSGSIZE, syscall.ENOBUFS, syscall.EPERM} {
		if errors.Is(err, passing) {
			return nil
		}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		n.unreachable(flow)
	}
	return err
}

// hides tells whether a datagram is of QUIC, whose name cannot be seen, in a flow
// where names count.
func (x *flow) hides(p []byte) bool {
	if look := x.begin.Look; look != egress.Denied && look != egress.Needed || len(p) < 7 || p[0]&0x80 == 0 {
		return false
	}
	switch version := binary.BigEndian.Uint32(p[1:]); {
	case version == 1, version == 0x6b3343cf: // RFC 9000, RFC 9369
		return true
	default: // drafts, and what was before them
		return version>>8 == 0xff0000 || version>>16 == 0x5130 || version>>16 == 0x5430
	}
}
