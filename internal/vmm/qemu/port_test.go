package qemu

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/wire"
)

// pair is a port and the guest's end of it.
func pair(t *testing.T) (*port, net.Conn) {
	t.Helper()
	ours, file, err := process.SocketPair("test")
	if err != nil {
		t.Fatal(err)
	}
	guest, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	p := newPort(ours)
	t.Cleanup(func() { p.close(); _ = guest.Close() })
	return p, guest
}

func next(t *testing.T, p *port) net.Conn {
	t.Helper()
	conn, err := p.link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	p := make([]byte, len(want))
	if _, err := io.ReadFull(conn, p); err != nil || string(p) != want {
		t.Fatalf("heard %q, %v; want %q", p, err, want)
	}
}

func TestSessionKeepsWhatCameBeforeItsEnd(t *testing.T) {
	p, guest := pair(t)
	p.open()
	s := next(t, p)
	say(t, guest, "last words")
	p.hangUp()
	if got, err := io.ReadAll(s); string(got) != "last words" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after the end: %v", err)
	}
}

// TestBlockedSessionEnds lets a guest go away under a reader and a writer.
func TestBlockedSessionEnds(t *testing.T) {
	p, guest := pair(t)
	p.open()
	s := next(t, p)
	ends := make(chan error, 2)
	go func() {
		_, err := s.Read(make([]byte, 1))
		ends <- err
	}()
	go func() {
		_, err := s.Write(make([]byte, 8<<20)) // more than a socket holds
		ends <- err
	}()
	time.AfterFunc(20*time.Millisecond, p.hangUp)
	for range 2 {
		if err := <-ends; !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("ended with %v", err)
		}
	}
	p.open()
	s = next(t, p)
	go func() { _, _ = s.Write([]byte("works again")) }()
	found := bufio.NewReader(guest)
	if _, err := found.ReadString('w'); err != nil { // behind what the old session left
		t.Errorf("the next session: %v", err)
	}
}

// TestQuickReopen has the guest open its port again before the old session's
// end is known: the greeting is in the socket, or already read, or in both.
func TestQuickReopen(t *testing.T) {
	line := wire.Magic + strings.Repeat("5a", wire.NonceLen) + "\n"
	for name, eaten := range map[string]int{"unread": 0, "partly read": 20, "read": len(line)} {
		for _, seen := range []bool{true, false} {
			p, guest := pair(t)
			p.open()
			old := next(t, p)
			say(t, guest, line+"data"+line)
			hear(t, old, line+("data" + line)[:4+eaten])
			if seen { // or heard of late
				p.hangUp()
			}
			p.open()
			got := make([]byte, 4+len(line))
			s := next(t, p)
			_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := io.ReadAtLeast(s, got, len(line))
			if err != nil || !strings.HasSuffix(string(got[:n]), line) {
				t.Errorf("%s, close seen %v: new session starts with %q, %v", name, seen, got[:n], err)
			}
		}
	}
}

func TestUnclaimedSessionIsReplaced(t *testing.T) {
	p, guest := pair(t)
	p.open()
	p.hangUp()
	p.open()
	say(t, guest, "second")
	hear(t, next(t, p), "second")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.link(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a session nobody opened: %v", err)
	}
}

func TestClosedSessionLeavesThePortUsable(t *testing.T) {
	p, guest := pair(t)
	p.open()
	s := next(t, p)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		ended <- err
	}()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed session: %v", err)
	}
	p.hangUp()
	p.open()
	say(t, guest, "hello")
	hear(t, next(t, p), "hello")
}

func TestDeadlines(t *testing.T) {
	p, guest := pair(t)
	p.open()
	s := next(t, p)
	_ = s.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	if _, err := s.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("read past its deadline: %v", err)
	}
	_ = s.SetDeadline(time.Time{})
	say(t, guest, "x")
	hear(t, s, "x")
	p.close()
	if err := s.SetDeadline(time.Now()); err == nil {
		t.Error("deadline of an ended session was accepted")
	}
	if _, err := p.link(t.Context()); !errors.Is(err, errEnded) {
		t.Errorf("session of an ended machine: %v", err)
	}
	p.open() // an event that was on its way
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
