package conformance

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
	"github.com/smolvm/smolvm/internal/wire"
)

// patience bounds every single exchange with the guest.
const patience = 3 * time.Minute

// client is the host's half of one session with the test guest.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

// newClient finds the session's magic and echoes it.
func newClient(t *testing.T, conn net.Conn) *client {
	t.Helper()
	c := &client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	c.limit(t)
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			t.Fatalf("no greeting on the link: %v", err)
		}
		if at := strings.LastIndex(line, wire.Magic); at >= 0 {
			if _, err := io.WriteString(conn, line[at:]); err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
}

func (c *client) limit(t *testing.T) {
	t.Helper()
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

func (c *client) tell(t *testing.T, r guest.Request) {
	t.Helper()
	c.limit(t)
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		t.Fatalf("ask %s: %v", r.Op, err)
	}
}

func (c *client) answer(t *testing.T, op guest.Op) guest.Answer {
	t.Helper()
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		t.Fatalf("answer to %s: %v", op, err)
	}
	var a guest.Answer
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatalf("answer to %s: %v", op, err)
	}
	return a
}

func (c *client) ask(t *testing.T, r guest.Request) guest.Answer {
	t.Helper()
	c.tell(t, r)
	return c.answer(t, r.Op)
}

func (c *client) look(t *testing.T) guest.Info {
	t.Helper()
	a := c.ask(t, guest.Request{Op: guest.Look})
	if a.Info == nil || a.Error != "" {
		t.Fatalf("the guest cannot describe itself: %s", a.Error)
	}
	return *a.Info
}

// receive takes n bytes from the guest and compares each.
func (c *client) receive(t *testing.T, n int64) {
	t.Helper()
	c.ask(t, guest.Request{Op: guest.Send, N: n})
	got, want := sha256.New(), sha256.New()
	if _, err := io.CopyN(got, c.in, n); err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(want, guest.Pattern(), n) // endless
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("bytes from the guest arrived changed")
	}
}

// send gives n bytes to the guest, which says what arrived.
func (c *client) send(t *testing.T, n int64) {
	t.Helper()
	c.tell(t, guest.Request{Op: guest.Take, N: n})
	want := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(c.conn, want), guest.Pattern(), n); err != nil {
		t.Fatal(err)
	}
	if got := c.answer(t, guest.Take); !bytes.Equal(got.Data, want.Sum(nil)) {
		t.Errorf("bytes to the guest arrived changed: %s", got.Error)
	}
}

// end sends a command that ends the session, then trailing bytes the guest must
// never take for its next session's, and waits for the end.
func (c *client) end(t *testing.T, op guest.Op, trailing string) {
	t.Helper()
	c.tell(t, guest.Request{Op: op})
	_, err := io.WriteString(c.conn, trailing)
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(c.in)
	// A VMM may report a quick reopening late: the next greeting is then seen by
	// both sessions.
	early := op == guest.Reopen && bytes.HasPrefix(rest, []byte(wire.Magic))
	if err != nil || len(rest) > 0 && !early {
		t.Fatalf("end of the session after %s: %q, %v", op, rest, err)
	}
	_ = c.conn.Close()
}
