//go:build linux

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest/boot"
	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/wire"
)

// streamServer serves one stream of a kind.
type streamServer interface {
	Serve(ctx context.Context, conn net.Conn) error
}

// servers are who serves the streams that the host opens.
type servers map[wire.StreamKind]streamServer

// uplink keeps the guest link open: whenever a session ends it offers the next.
// The last thing published is told to every new session first.
type uplink struct {
	random      io.Reader
	reopen      func() (link.Port, error)
	orders      chan<- order
	mounts      func(wire.Message) // told of lists and changes of mounts; set before keep
	credentials func(wire.Message) // told of each message about them; set before keep
	answered    func(wire.Message) // told what became of an address; set before keep
	snapshots   func(wire.Message) // told of each message about them; set before keep
	servers
	ready chan struct{}  // closed when there are servers
	group sync.WaitGroup // streams, which may outlive their session for a moment

	mu       sync.Mutex
	session  *link.Session
	standing *wire.Message
	beside   map[wire.MessageType]wire.Message // told to every new session too: the last of each type
	changed  chan struct{}                     // closed and renewed when session changes
	held     chan struct{}                     // closed when streams are served again; nil: they are
}

// newUplink makes an uplink without a port, on which nothing is heard. Orders
// of the host go to orders.
func newUplink(random io.Reader, orders chan<- order) *uplink {
	return &uplink{random: random, orders: orders, changed: make(chan struct{}), ready: make(chan struct{}), beside: map[wire.MessageType]wire.Message{}}
}

// redial is how long to wait at most before the host is called again that did not
// answer as it should.
const redial = time.Second

// callHost waits for the vsock device and connects to the host. Later sessions
// connect again: after the host let go, or when the machine was restored elsewhere.
func (u *uplink) callHost(ctx, life context.Context, token string) (link.Port, error) {
	call := func() (link.Port, error) { return link.DialVsock(life, token, wire.ForLink, u.random) }
	u.reopen = func() (link.Port, error) {
		for pause := redial / 64; ; pause = min(2*pause, redial) {
			port, err := call()
			if err == nil || life.Err() != nil {
				return port, err
			}
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-life.Done():
				timer.Stop()
			}
		}
	}
	var port link.Port
	err := boot.Await(ctx, func() (there bool, err error) {
		if port, err = call(); errors.Is(err, link.ErrNoVsock) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the host: %w", err)
	}
	return port, nil
}

// findPort waits for the link's port and opens it. Later sessions open it again, or
// the one that the machine has then: after it was kept, or restored elsewhere.
func (u *uplink) findPort(ctx, life context.Context) (link.Port, error) {
	u.reopen = func() (link.Port, error) { return link.AwaitPort(life, wire.PortName) }
	return link.AwaitPort(ctx, wire.PortName)
}

// keep serves session after session until ctx ends or the port is gone.
func (u *uplink) keep(ctx context.Context, port link.Port) error {
	defer u.group.Wait()
	for ctx.Err() == nil {
		session, err := link.Open(ctx, port, u.random)
		if err == nil {
			u.attach(session)
			u.converse(ctx, session)
			u.attach(nil)
			session.Close()
		}
		port.Close()
		switch port, err = u.reopen(); {
		case err != nil && ctx.Err() != nil:
			return nil //nolint:nilerr // the machine ends
		case err != nil:
			return err
		}
	}
	return port.Close()
}

// converse serves one session until it ends.
func (u *uplink) converse(ctx context.Context, session *link.Session) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	u.group.Go(func() { u.obey(session) })
	for {
		stream, kind, err := session.Accept()
		if err != nil {
			return
		}
		u.group.Go(func() { u.stream(ctx, stream, kind) })
	}
}

// stream serves one stream once there are servers.
func (u *uplink) stream(ctx context.Context, stream net.Conn, kind wire.StreamKind) {
	defer stream.Close()
	select {
	case <-u.ready:
	case <-ctx.Done():
		return
	}
	if !u.admitted(ctx) {
		return
	}
	if server := u.servers[kind]; server != nil {
		_ = server.Serve(ctx, stream) // a client that fails is its own trouble
	}
}

// hold lets no stream be served until release.
func (u *uplink) hold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held == nil {
		u.held = make(chan struct{})
	}
}

// release ends a hold.
func (u *uplink) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held != nil {
		close(u.held)
		u.held = nil
	}
}

// admitted waits until streams may be served; false when ctx ended first.
func (u *uplink) admitted(ctx context.Context) bool {
	u.mu.Lock()
	held := u.held
	u.mu.Unlock()
	if held == nil {
		return true
	}
	select {
	case <-held:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// obey receives the host's messages until the session ends.
func (u *uplink) obey(session *link.Session) {
	for {
		message, err := session.Receive()
		if err != nil {
			return
		}
		switch message.Type {
		case wire.PowerOff:
			give(u.orders, powerOff)
		case wire.Mounts, wire.Changed:
			u.group.Go(func() { u.mounts(message) })
		case wire.GiveCredentials, wire.AskLogins:
			u.group.Go(func() { u.credentials(message) })
		case wire.Hold, wire.Renew:
			u.group.Go(func() { u.snapshots(message) })
		case wire.AddressShown:
			u.answered(message)
		case wire.Clock:
			_ = setClock(message.UnixNano) // cannot fail for process 1
		}
	}
}

// serve says who serves streams; called once.
func (u *uplink) serve(all servers) {
	u.servers = all
	close(u.ready)
}

func (u *uplink) attach(session *link.Session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.session = session
	close(u.changed)
	u.changed = make(chan struct{})
	if session == nil {
		return
	}
	if u.standing != nil {
		_ = session.Send(*u.standing)
	}
	for _, message := range u.beside {
		_ = session.Send(message)
	}
}

// announce tells the host of the kept sessions, now and in every later session.
func (u *uplink) announce(all []wire.KeptSession) { u.remember(sessionsMessage(all)) }

// remember tells the host something now, and in every later session until there is
// another message of its type.
func (u *uplink) remember(message wire.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.beside[message.Type] = message
	if u.session != nil {
		_ = u.session.Send(message)
	}
}

// sessionsMessage leaves out what is long where there is too much of it.
func sessionsMessage(all []wire.KeptSession) wire.Message {
	message := wire.Message{Type: wire.Sessions, Sessions: all}
	if encoded, err := json.Marshal(message); err == nil && len(encoded) < wire.MaxMessage {
		return message
	}
	for i := range all {
		all[i].Title, all[i].Command = "", ""
	}
	return message
}

// publish tells the host, now or as soon as it is there.
func (u *uplink) publish(message wire.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.standing = &message
	if u.session != nil {
		_ = u.session.Send(message) // fails with its session; the next is told again
	}
}

// say tells the host that is there now, if any, something that a later one need
// not know.
func (u *uplink) say(message wire.Message) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.session != nil {
		_ = u.session.Send(message)
	}
}

// deliver publishes and waits until a host has been told or ctx ends.
func (u *uplink) deliver(ctx context.Context, message wire.Message) {
	told := make(chan struct{})
	u.group.Go(func() {
		defer close(told)
		u.publish(message) // blocks while the host does not read
		for {
			u.mu.Lock()
			there, changed := u.session != nil, u.changed
			u.mu.Unlock()
			if there {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	select {
	case <-told:
	case <-ctx.Done():
	}
}
