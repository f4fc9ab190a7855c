//go:build linux

package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/wire"
)

// sessionServer serves one SSH connection.
type sessionServer interface {
	Serve(ctx context.Context, conn net.Conn) error
}

// uplink keeps the guest link open: whenever a session ends it offers the next.
// The last thing published is told to every new session first.
type uplink struct {
	random io.Reader

	mu       sync.Mutex
	session  *link.Session
	standing *wire.Message
	changed  chan struct{} // closed and renewed when session changes
	server   sessionServer
	ready    chan struct{} // closed when there is a server
}

func newUplink(random io.Reader) *uplink {
	return &uplink{random: random, changed: make(chan struct{}), ready: make(chan struct{})}
}

// start waits for the port and then keeps the link in the group until its
// context ends. Orders of the host go to orders.
func (u *uplink) start(ctx context.Context, group *sync.WaitGroup, orders chan<- order) error {
	var path string
	err := boot.Await(ctx, func() (found bool, err error) {
		path, err = link.FindPort("/sys", "/dev", wire.PortName)
		return path != "", err
	})
	if err != nil {
		return fmt.Errorf("wait for port %s: %w", wire.PortName, err)
	}
	// Open before the switch of the root, during which /dev is away for an instant.
	port, err := link.OpenPort(path)
	if err != nil {
		return err
	}
	group.Go(func() { u.keep(context.WithoutCancel(ctx), port, path, orders) })
	return nil
}

// keep serves session after session on the port.
func (u *uplink) keep(ctx context.Context, port link.Port, path string, orders chan<- order) {
	for {
		session, err := link.Open(ctx, port, u.random)
		if err == nil {
			u.attach(session)
			u.converse(ctx, session, orders)
			u.attach(nil)
			session.Close()
		}
		port.Close()
		if port, err = link.OpenPort(path); err != nil {
			return
		}
	}
}

// converse serves one session until it ends.
func (u *uplink) converse(ctx context.Context, session *link.Session, orders chan<- order) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { obey(session, orders) })
	for {
		stream, kind, err := session.Accept()
		if err != nil {
			break
		}
		group.Go(func() { u.stream(ctx, session, stream, kind) })
	}
	cancel()
	group.Wait()
}

// stream serves one stream once there is a server.
func (u *uplink) stream(ctx context.Context, session *link.Session, stream net.Conn, kind wire.StreamKind) {
	defer stream.Close()
	if kind != wire.StreamSSH {
		return
	}
	select {
	case <-u.ready:
		_ = u.server.Serve(ctx, stream)
	case <-session.Done():
	}
}

// obey receives the host's messages until the session ends.
func obey(session *link.Session, orders chan<- order) {
	for {
		message, err := session.Receive()
		if err != nil {
			return
		}
		switch message.Type {
		case wire.PowerOff:
			give(orders, powerOff)
		case wire.Clock:
			_ = setClock(message.UnixNano)
		}
	}
}

// serve says who serves SSH streams; called once.
func (u *uplink) serve(server sessionServer) {
	u.server = server
	close(u.ready)
}

func (u *uplink) attach(session *link.Session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.session = session
	close(u.changed)
	u.changed = make(chan struct{})
	if session != nil && u.standing != nil {
		_ = session.Send(*u.standing)
	}
}

// publish tells the host, now or as soon as it is there.
func (u *uplink) publish(message wire.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.standing = &message
	if u.session != nil {
		_ = u.session.Send(message)
	}
}

// farewell publishes a last message and waits until the host has it, for a
// while. Without a port there is nobody to wait for.
func (u *uplink) farewell(message wire.Message, patience time.Duration) {
	u.publish(message)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		u.mu.Lock()
		there, changed := u.session != nil, u.changed
		u.mu.Unlock()
		if there {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			return
		}
	}
}
