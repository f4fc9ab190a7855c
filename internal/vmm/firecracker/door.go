package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// helloTime bounds the guest's part of a handshake.
	helloTime = 30 * time.Second
	// maxCallers bounds the connections whose handshake is not done.
	maxCallers = 16
)

// door is the Unix socket at which Firecracker delivers the guest's connections.
// Who comes in has to prove that it knows the boot's token, and is given the proof
// that this is the process that made it.
type door struct {
	listener *net.UnixListener
	token    string
	group    sync.WaitGroup
	callers  chan struct{} // one for each handshake on its way

	mu     sync.Mutex
	halls  map[wire.Purpose]*hall
	last   wire.Purpose // what the guest said about its end; empty: nothing
	inside map[net.Conn]bool
	closed bool
}

// hall is where connections of one purpose wait.
type hall struct {
	current *session      // the last one; nil before the first
	opened  chan *session // holds the session nobody has asked for yet
}

func openDoor(path, token string) (*door, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	d := &door{
		listener: l, token: token, callers: make(chan struct{}, maxCallers),
		halls: map[wire.Purpose]*hall{}, inside: map[net.Conn]bool{},
	}
	for _, purpose := range []wire.Purpose{wire.ForLink, wire.ForShare} {
		d.halls[purpose] = &hall{opened: make(chan *session, 1)}
	}
	d.group.Go(d.serve)
	return d, nil
}

// expect forgets what an earlier guest said.
func (d *door) expect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = ""
}

// farewell is what the guest said about its end, all callers heard out.
func (d *door) farewell() wire.Purpose {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

func (d *door) serve() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		closed := d.closed
		d.inside[conn] = true
		d.mu.Unlock()
		if closed {
			_ = conn.Close()
			return
		}
		d.callers <- struct{}{}
		d.group.Go(func() {
			defer func() { <-d.callers }()
			d.greet(conn)
		})
	}
}

// greet hears a caller and lets it in.
func (d *door) greet(conn net.Conn) {
	defer d.forget(conn)
	purpose, nonce, err := hear(conn, d.token, time.Now().Add(helloTime))
	if err != nil {
		_ = conn.Close()
		return
	}
	hall := d.halls[purpose]
	if hall == nil {
		// Before the answer: with it the guest goes down.
		d.mu.Lock()
		d.last = purpose
		d.mu.Unlock()
	}
	_, err = io.WriteString(conn, wire.VsockAnswer(d.token, purpose, nonce))
	if err = errors.Join(err, conn.SetDeadline(time.Time{})); err != nil || hall == nil {
		_ = conn.Close()
		return
	}
	d.admit(hall, conn)
}

// admit puts a connection in the place of an earlier one.
func (d *door) admit(h *hall, conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = conn.Close()
		return
	}
	if h.current != nil {
		_ = h.current.Conn.Close() // its guest has begun anew
	}
	h.current = &session{Conn: conn}
	select {
	case <-h.opened: // nobody asked for it
	default:
	}
	h.opened <- h.current
}

// forget says that a caller's handshake is over.
func (d *door) forget(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.inside, conn)
}

// hear checks a caller's proof. It reads no byte beyond the line.
func hear(conn net.Conn, token string, until time.Time) (wire.Purpose, string, error) {
	if err := conn.SetDeadline(until); err != nil {
		return "", "", err
	}
	line, err := readLine(conn)
	if err != nil {
		return "", "", err
	}
	purpose, nonce, ok := wire.CheckVsockHello(token, line)
	if !ok {
		return "", "", errors.New("the caller does not know the token")
	}
	return purpose, nonce, nil
}

// readLine reads up to a line's end, byte by byte.
func readLine(in io.Reader) (string, error) {
	line := make([]byte, 0, wire.MaxVsockLine)
	for one := make([]byte, 1); len(line) < wire.MaxVsockLine; {
		if _, err := io.ReadFull(in, one); err != nil {
			return "", err
		}
		if line = append(line, one[0]); one[0] == '\n' {
			return string(line), nil
		}
	}
	return "", fmt.Errorf("a line of more than %d bytes", wire.MaxVsockLine)
}

var errEnded = errors.New("the virtual machine has ended")

// wait waits for the next session of a purpose.
func (d *door) wait(ctx context.Context, purpose wire.Purpose) (net.Conn, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case s, ok := <-d.halls[purpose].opened:
		if !ok {
			return nil, fault.New(fault.Boot, "", "open guest %s: %w", purpose, errEnded)
		}
		return s, nil
	}
}

// close ends everything; wait then fails for good.
func (d *door) close() {
	_ = d.listener.Close() // also removes the socket
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		for conn := range d.inside {
			_ = conn.Close()
		}
		for _, h := range d.halls {
			close(h.opened)
			if h.current != nil {
				_ = h.current.Conn.Close()
			}
		}
	}
	d.mu.Unlock()
	d.group.Wait()
}

// session is one connection of the guest.
type session struct{ net.Conn }

// Read takes Firecracker's end of a connection, which it resets when it drops bytes
// for a guest that has gone, for the guest's.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF
	}
	return n, err
}
