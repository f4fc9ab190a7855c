package firecracker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

const testToken = "0123456789abcdef0123456789abcdef"

var testNonce = strings.Repeat("ab", wire.NonceLen)

// knock connects and says line.
func knock(t *testing.T, path, line string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	return conn
}

func testDoor(t *testing.T) (*door, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vsock_52")
	d, err := openDoor(path, testToken)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d, path
}

func TestGuestIsLetIn(t *testing.T) {
	d, path := testDoor(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	for range 2 { // the second one is a guest that began anew
		guest := knock(t, path, wire.VsockHello(testToken, wire.ForLink, testNonce))
		answer := make([]byte, len(wire.VsockAnswer(testToken, wire.ForLink, testNonce)))
		if _, err := io.ReadFull(guest, answer); err != nil || !wire.CheckVsockAnswer(testToken, string(answer), wire.ForLink, testNonce) {
			t.Fatalf("%q, %v", answer, err)
		}
		_, _ = io.WriteString(guest, "hello")
		host, err := d.wait(t.Context(), wire.ForLink)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(host, got); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestStrangersStayOutside: who does not know the token gets no word and no link.
func TestStrangersStayOutside(t *testing.T) {
	d, path := testDoor(t)
	hello := wire.VsockHello(testToken, wire.ForLink, testNonce)
	for name, line := range map[string]string{
		"another token":   wire.VsockHello(strings.Repeat("0", 32), wire.ForLink, testNonce),
		"another purpose": strings.Replace(hello, "link", "reboot", 1),
		"unknown purpose": wire.VsockHello(testToken, "shell", testNonce),
		"short nonce":     wire.VsockHello(testToken, wire.ForLink, "ab"),
		"the host's line": wire.VsockAnswer(testToken, wire.ForLink, testNonce),
		"an empty line":   "\n",
		"an endless line": strings.Repeat("x", 10*wire.MaxVsockLine),
		"an HTTP request": "GET / HTTP/1.1\r\n\r\n",
	} {
		conn := knock(t, path, line)
		if said, err := io.ReadAll(conn); len(said) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %q, %v", name, said, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.wait(ctx, wire.ForLink); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stranger has the link: %v", err)
	}
	if d.farewell() != "" {
		t.Errorf("a stranger's farewell counts: %q", d.farewell())
	}
}

// TestManySilentCallers: callers who say nothing do not keep the door from closing.
func TestManySilentCallers(t *testing.T) {
	d, path := testDoor(t)
	for range 2 * maxCallers {
		knock(t, path, "")
	}
	done := make(chan struct{})
	go func() { d.close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the door does not close")
	}
	if _, err := d.wait(t.Context(), wire.ForLink); !errors.Is(err, errEnded) {
		t.Errorf("link of a closed door: %v", err)
	}
}

func TestFarewell(t *testing.T) {
	d, path := testDoor(t)
	conn := knock(t, path, wire.VsockHello(testToken, wire.ForReboot, testNonce))
	said, err := io.ReadAll(conn)
	if err != nil || !wire.CheckVsockAnswer(testToken, string(said), wire.ForReboot, testNonce) {
		t.Fatalf("%q, %v", said, err)
	}
	if d.farewell() != wire.ForReboot {
		t.Errorf("%q when the guest has its answer", d.farewell())
	}
}

func FuzzHello(f *testing.F) {
	f.Add(wire.VsockHello(testToken, wire.ForLink, testNonce))
	f.Add("SMOLVM-VSOCK/1 link  \n")
	f.Add(strings.Repeat("x", 300))
	f.Fuzz(func(t *testing.T, said string) {
		line, err := readLine(strings.NewReader(said))
		if err != nil {
			return
		}
		if len(line) > wire.MaxVsockLine || !strings.HasPrefix(said, line) {
			t.Errorf("line %q of %q", line, said)
		}
		purpose, nonce, ok := wire.CheckVsockHello(testToken, line)
		if ok && line != wire.VsockHello(testToken, purpose, nonce) {
			t.Errorf("%q was believed", line)
		}
	})
}
