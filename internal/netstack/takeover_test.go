package netstack

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

// interceptor takes connections to one name, and says what it read and dialled.
type interceptor struct {
	name  string
	again bool // dial a second time
	mu    sync.Mutex
	heard []string
}

func (i *interceptor) Wants(name string, port uint16) bool { return name == i.name && port == 443 }

func (i *interceptor) Take(guest net.Conn, name string, _ uint16, dial func(context.Context) (net.Conn, error)) {
	defer guest.Close()
	first := make([]byte, 6)
	_, err := io.ReadFull(guest, first)
	host, failed := dial(context.Background())
	if i.again && failed == nil {
		_ = host.Close()
		host, failed = dial(context.Background())
	}
	if failed == nil {
		_ = host.Close()
	}
	i.mu.Lock()
	i.heard = append(i.heard, fmt.Sprintf("%s %d %v %v", name, first[0], err, failed))
	i.mu.Unlock()
	_, _ = guest.Write([]byte("taken"))
}

// hello is what a TLS client begins with.
func hello(t *testing.T, name string) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	var speaking sync.WaitGroup
	speaking.Go(func() {
		_ = tls.Client(ours, &tls.Config{ServerName: name}).HandshakeContext(t.Context())
	})
	buf := make([]byte, 16<<10)
	n, err := theirs.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	speaking.Wait()
	return buf[:n]
}

func TestTakenOver(t *testing.T) {
	const at = "203.0.113.7:443"
	for name, c := range map[string]struct {
		policy egress.Policy
		pinned string
		begin  []byte
		taken  bool
	}{
		"the name":               {egress.Policy{}, "api.example", hello(t, "API.example"), true},
		"restricted":             {allow(t, egress.Restricted, "api.example"), "api.example", hello(t, "api.example"), true},
		"another on its address": {egress.Policy{}, "api.example", hello(t, "www.example"), false},
		"no TLS":                 {egress.Policy{}, "api.example", []byte("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"), false},
		"nobody asked for it":    {egress.Policy{}, "www.example", hello(t, "api.example"), false},
	} {
		t.Run(name, func(t *testing.T) {
			i := &interceptor{name: "api.example", again: true}
			g := newGuestWith(t, Config{Policy: c.policy, Intercept: i})
			g.serve(t, at, echoes)
			g.network.names.add(netip.MustParseAddr("203.0.113.7"), c.pinned, time.Minute)
			conn, err := g.tcp(t, at)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			for _, part := range [][]byte{c.begin[:3], c.begin[3:]} { // the begin may come in pieces
				if _, err := conn.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			want := string(c.begin)
			if c.taken {
				want = "taken"
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Errorf("got %.40q, %v", got, err)
			}
			i.mu.Lock()
			defer i.mu.Unlock()
			if c.taken != (len(i.heard) == 1) || c.taken && i.heard[0] != "api.example 22 <nil> <nil>" {
				t.Errorf("the interceptor heard %q", i.heard)
			}
		})
	}
}

// TestTakenOverConnectionEndsWithItsPolicy denies what an interceptor works on.
func TestTakenOverConnectionEndsWithItsPolicy(t *testing.T) {
	held := make(chan func(context.Context) (net.Conn, error))
	g := newGuestWith(t, Config{Intercept: holder{held}})
	g.serve(t, "203.0.113.7:443", echoes)
	g.network.names.add(netip.MustParseAddr("203.0.113.7"), "api.example", time.Minute)
	conn, err := g.tcp(t, "203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(hello(t, "api.example")); err != nil {
		t.Fatal(err)
	}
	dial := <-held
	if live := g.network.Snapshot().Live; len(live) != 1 || live[0].Name != "api.example" || live[0].Sent == 0 {
		t.Errorf("live: %+v", live)
	}
	g.network.SetPolicy(egress.Policy{Mode: egress.Off})
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("it ended in order")
	}
	first, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	if _, err := dial(t.Context()); err == nil || !strings.Contains(err.Error(), "off") {
		t.Errorf("dialled against the policy: %v", err)
	}
}

// holder holds what it took until it is closed.
type holder struct {
	dials chan func(context.Context) (net.Conn, error)
}

func (holder) Wants(string, uint16) bool { return true }

func (h holder) Take(guest net.Conn, _ string, _ uint16, dial func(context.Context) (net.Conn, error)) {
	h.dials <- dial
	_, _ = io.Copy(io.Discard, guest)
	_ = guest.Close()
}
