package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// carryMax bounds the bytes kept between two sessions of the link. A socket
// pair holds about 200 KiB; what a guest has queued beyond stays in the socket.
const carryMax = 1 << 20

// The machine's ports.
const (
	linkID  = "link"
	shareID = "share"
)

// portTable are the ports in the guest's order, with the names it finds them by.
var portTable = []struct{ id, name string }{{linkID, wire.PortName}, {shareID, wire.SharePort}}

// portDevice is QEMU's device of a port.
const portDevice = "virtserialport"

// port is the host's end of the guest link: one socket that lives as long as
// QEMU does, or until the machine is kept, cut into sessions where the guest opens
// and closes its port. So the guest always finds the host connected and never has to
// retry.
type port struct {
	mu      sync.Mutex
	conn    *net.UnixConn // nil: there is none yet
	current *session      // nil between sessions
	opened  chan *session // holds the session nobody has asked for yet
	carry   []byte        // read from the socket when the last session ended
	closed  bool
}

func newPort(conn *net.UnixConn) *port {
	return &port{conn: conn, opened: make(chan *session, 1)}
}

func newPorts() map[string]*port {
	all := map[string]*port{}
	for _, p := range portTable {
		all[p.id] = newPort(nil)
	}
	return all
}

// connect gives the port a socket. What went through an earlier one ends.
func (p *port) connect(conn *net.UnixConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	p.carry = nil
	if p.conn != nil {
		_ = p.conn.Close()
	}
	p.conn = conn
	if p.closed {
		_ = conn.Close()
	}
}

// greeting is the length of the line a guest opens a session with.
const greeting = len(wire.Magic) + 2*wire.NonceLen + 1

// open starts a session. One that is still open ends: QEMU holds back events
// that follow each other within a second and reports only the last, so a close
// may go unseen and the open come late. The old session's reader has then taken
// the new greeting for its own data; as a guest sends nothing more before the
// echo, it is the very end of what was read, and is given to the new session.
func (p *port) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.current; old != nil {
		p.end()
		p.carry = lastBytes(append(old.tail, p.carry...), greeting)
	}
	if p.closed || p.conn == nil {
		return
	}
	p.current = &session{conn: p.conn, before: p.carry, settled: make(chan struct{})}
	p.carry = nil
	select {
	case <-p.opened: // a session that ended before anyone asked for it
	default:
	}
	p.opened <- p.current
}

// lastBytes is the end of p, at most n bytes.
func lastBytes(p []byte, n int) []byte { return p[max(0, len(p)-n):] }

// hangUp ends the current session, if any.
func (p *port) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

func (p *port) end() {
	if p.current != nil {
		p.carry = p.current.end()
		p.current = nil
	}
}

// close ends everything: VMM gone. Link then fails for good.
func (p *port) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	if !p.closed {
		p.closed = true
		if p.conn != nil {
			_ = p.conn.Close()
		}
		close(p.opened)
	}
}

var errEnded = errors.New("the virtual machine has ended")

// link waits for the next session.
func (p *port) link(ctx context.Context) (net.Conn, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case s, ok := <-p.opened:
		if !ok {
			return nil, fault.New(fault.Boot, "", "open guest link: %w", errEnded)
		}
		return s, nil
	}
}

// drain reads what the socket holds now, without waiting.
func drain(conn *net.UnixConn) []byte {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	var got []byte
	buf := make([]byte, 64<<10)
	_ = raw.Read(func(fd uintptr) bool {
		for len(got) < carryMax {
			n, err := syscall.Read(int(fd), buf)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if n <= 0 {
				break
			}
			got = append(got, buf[:n]...)
		}
		return true
	})
	return got
}

// session is one opening of the port by the guest. It implements net.Conn.
type session struct {
	conn *net.UnixConn

	reading sync.Mutex    // held by a Read in progress
	tail    []byte        // the last bytes read, at most a greeting; under reading
	heard   int           // how many were read in all; under reading
	writing sync.Mutex    // held by a Write in progress
	before  []byte        // bytes of an earlier session the magic may hide in; under reading
	settled chan struct{} // closed when rest is known
	rest    []byte        // what the guest had sent before the end and was not read; under reading

	mu     sync.Mutex
	over   bool // the guest closed the port
	closed bool // the host closed the session
}

// end stops reads and writes in progress, keeps for later reads what the guest
// had sent, and returns a copy of it: the next session's magic may be in it
// when the guest was quick. Where the word of the close came later than that magic,
// some or all of it has been read already, and is what is returned.
func (s *session) end() []byte {
	s.mu.Lock()
	s.over = true
	_ = s.conn.SetDeadline(time.Unix(1, 0)) // wakes Read and Write
	s.mu.Unlock()
	s.reading.Lock()
	defer s.reading.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetDeadline(time.Time{})
	s.rest = append(s.before, drain(s.conn)...)
	close(s.settled)
	late := lastBytes(slices.Concat(s.tail, s.rest), greeting)
	if s.heard+len(s.rest) > greeting && bytes.HasPrefix(late, []byte(wire.Magic)) { // and not its own
		return late
	}
	return slices.Clone(s.rest)
}

// errOver tells Read that the guest closed the port.
var errOver = errors.New("guest closed the port")

// state is net.ErrClosed or errOver once the session is no longer open.
func (s *session) state() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.over:
		return errOver
	}
	return nil
}

// Read reads what the guest sent; io.EOF once it closed the port and all is read.
func (s *session) Read(p []byte) (int, error) {
	n, err := s.readOpen(p)
	if !errors.Is(err, errOver) {
		return n, err
	}
	<-s.settled
	s.reading.Lock()
	defer s.reading.Unlock()
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n = copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// readOpen reads while the session is open.
func (s *session) readOpen(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if err := s.state(); err != nil {
		return 0, err
	}
	if len(s.before) > 0 {
		n := copy(p, s.before)
		s.before = s.before[n:]
		s.heard += n
		return n, nil
	}
	n, err := s.conn.Read(p)
	if err == nil || n > 0 {
		s.tail = append([]byte(nil), lastBytes(append(s.tail, lastBytes(p[:n], greeting)...), greeting)...)
		s.heard += n
		return n, nil
	}
	if state := s.state(); state != nil {
		return 0, state
	}
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF // QEMU is gone
	}
	return 0, err
}

// Write sends to the guest; it fails with EPIPE once the guest closed the port.
func (s *session) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	err, n := s.state(), 0
	if err == nil {
		n, err = s.conn.Write(p)
	}
	if state := s.state(); err != nil && state != nil {
		err = state
	}
	if errors.Is(err, errOver) {
		err = syscall.EPIPE
	}
	return n, err
}

// Close ends the host's use of the session. The guest does not notice; its
// bytes wait in the socket for the next session.
func (s *session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if !s.over {
		_ = s.conn.SetDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	return nil
}

// LocalAddr names the link.
func (s *session) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr names the link.
func (s *session) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// SetDeadline bounds Read and Write of an open session.
func (s *session) SetDeadline(t time.Time) error { return s.deadline(s.conn.SetDeadline, t) }

// SetReadDeadline bounds Read of an open session.
func (s *session) SetReadDeadline(t time.Time) error {
	return s.deadline(s.conn.SetReadDeadline, t)
}

// SetWriteDeadline bounds Write of an open session.
func (s *session) SetWriteDeadline(t time.Time) error {
	return s.deadline(s.conn.SetWriteDeadline, t)
}

func (s *session) deadline(set func(time.Time) error, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.closed {
		return os.ErrClosed
	}
	return set(t)
}
