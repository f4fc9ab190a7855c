package netstack

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

// newGate is the gate of a connection to a port of 203.0.113.7, which the guest
// knows by the names.
func newGate(policy egress.Policy, port uint16, names ...string) *gate {
	x := &flow{flows: newFlows(time.Now, func(Entry) {}), protocol: egress.TCP, to: addrPort(addressOf(target4), port), names: names}
	x.begin = policy.Decide(egress.Connection{Protocol: egress.TCP, To: x.to, Names: names})
	x.verdict = x.begin
	return x.gate(func() egress.Policy { return policy })
}

// helloFor is what a TLS client sends first.
func helloFor(t testing.TB, name string) string {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		_ = tls.Client(theirs, &tls.Config{ServerName: name, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}).HandshakeContext(context.Background())
	}()
	defer ours.Close()
	buf := make([]byte, 4096)
	n, err := ours.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// TestWhatMayPass sends beginnings of connections at once and byte by byte. What may
// not pass must not even in part.
func TestWhatMayPass(t *testing.T) {
	web := allow(t, egress.Restricted, "ok.example", "git.example:9418", "sql.example:443")
	proxy := allow(t, egress.Restricted, "203.0.113.7:3128", "ok.example", "git.example:9418", "203.0.113.9:8443")
	denies := egress.Policy{}.Denying(allow(t, egress.Open, "bad.example").Allow...)
	ok, bad := helloFor(t, "ok.example"), helloFor(t, "bad.example")
	post := "POST / HTTP/1.1\r\nHost: ok.example\r\n"
	evil := "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"
	for _, c := range []struct {
		policy egress.Policy
		port   uint16
		sent   string
		passes bool
	}{
		{web, 443, ok, true},
		{web, 443, bad, false},
		{web, 80, "GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n", true},
		{web, 80, "GET / HTTP/1.1\r\nHost: OK.example.:80\r\n\r\nGET /2 HTTP/1.1\r\nHost: ok.example\r\n\r\n", true},
		{web, 80, "GET / HTTP/1.0\r\n\r\n", true},
		{web, 80, "GET /\xc3\xa9\xff HTTP/1.1\r\nHost: ok.example\r\nX: \xe9\r\n\r\n", true},
		{web, 80, "GET http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n", true},
		{web, 80, post + "Content-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: ok.example\r\n\r\n", true},
		{web, 80, post + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: ok.example\r\n\r\n", true},
		{web, 80, post + "Content-Length: " + fmt.Sprint(len(evil)) + "\r\n\r\n" + evil, true}, // is the body
		// Another name, by any of the ways to tell it.
		{web, 80, evil, false},
		{web, 80, "GET /?u=http://ok.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", false},
		{web, 80, "GET http://evil.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "GET http://ok.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", false},
		{web, 80, "GET http://ok.example@evil.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "GET //ok.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", false},
		{web, 80, "GET foo://ok.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "CONNECT evil.example:443 HTTP/1.1\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "\r\n\r\n" + evil, false},
		{web, 80, " " + evil, false},
		{web, 80, "GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n" + evil, false},
		{web, 80, "GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n\r\n" + evil, false},
		{web, 80, post + "Content-Length: 5\r\n\r\nhello" + evil, false},
		{web, 80, post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + evil, false},
		// What can be read in more than one way.
		{web, 80, "GET / HTTP/1.1\r\nHost:\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\r\nHost: \r\n evil.example\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\r\nHost: ok.example\r\nHost: evil.example\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\r\nHost : evil.example\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\nHost: evil.example\n\n", false},
		{web, 80, "GET / HTTP/1.1\r\nX: a\nHost: evil.example\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\r\nX: a\rHost: evil.example\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "GET\t/ HTTP/1.1\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "GET / HTTP/2.0\r\nHost: ok.example\r\n\r\n", false},
		{web, 80, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
		{web, 80, post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{web, 80, post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", false},
		{web, 80, post + "Content-Length: +5\r\n\r\n", false},
		{web, 80, post + "Transfer-Encoding: gzip, chunked\r\n\r\n", false},
		{web, 80, post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", false},
		{web, 80, post + "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n", false},
		{web, 80, post + "Upgrade: h2c\r\n\r\n", false},
		{web, 80, "GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n" + post + "Upgrade: websocket\r\n\r\n", false},
		// Other protocols: only where a rule is for just this port.
		{web, 80, "SSH-2.0-x\r\n", false},
		{web, 80, "GET /old\r\n", false},
		{web, 8080, "\x00\x01", false},
		{web, 443, "\x16\x03\x01\x00\x01\x02", false},
		{web, 443, "EHLO me\r\n", false},
		{web, 9418, "\x00\x01", true},
		{web, 9418, "SSH-2.0-x\r\n", true},
		{web, 9418, "EHLO me\r\n", true},
		{web, 9418, "ping", true},
		{web, 9418, evil, false},
		// A proxy that an address allows: what it is asked for is judged, and what passes through.
		{proxy, 3128, evil, true}, // to the proxy itself
		{proxy, 3128, "GET http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n", true},
		{proxy, 3128, "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", false},
		{proxy, 3128, "CONNECT ok.example:443 HTTP/1.1\r\nHost: ok.example:443\r\n\r\n" + ok, true},
		{proxy, 3128, "CONNECT ok.example:443 HTTP/1.1\r\n\r\nCONNECT ok.example:443 HTTP/1.1\r\nProxy-Authorization: x\r\n\r\n" + ok, true},
		{proxy, 3128, "CONNECT ok.example:443 HTTP/1.1\r\n\r\n" + bad, false},
		{proxy, 3128, "CONNECT evil.example:443 HTTP/1.1\r\n\r\n", false},
		{proxy, 3128, "CONNECT 10.0.0.1:443 HTTP/1.1\r\n\r\n", false},
		{proxy, 3128, "CONNECT 203.0.113.9:8443 HTTP/1.1\r\n\r\n\x00", true},
		{proxy, 3128, "CONNECT ok.example:22 HTTP/1.1\r\n\r\nSSH-2.0-x\r\n", false},
		{proxy, 3128, "CONNECT git.example:9418 HTTP/1.1\r\n\r\n\x00\x01", true},
		{proxy, 3128, "\x05\x01\x00", true},
		{proxy, 3128, bad, true},
		// An open network with a name that is denied.
		{denies, 443, ok, true},
		{denies, 443, bad, false},
		{denies, 443, "\x00\x01", true},
		{denies, 80, evil, true},
		{denies, 80, "GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n", false},
		{denies, 80, evil + "GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n", false},
		{denies, 3128, "CONNECT bad.example:443 HTTP/1.1\r\n\r\n", false},
		{egress.Policy{}, 443, bad, true},
		{egress.Policy{}, 80, "PRI * HTTP/2.0\r\n\r\n", true},
	} {
		for _, size := range []int{len(c.sent), 1} {
			names := []string{"ok.example"}
			if c.port == 9418 {
				names = []string{"git.example"}
			}
			if c.policy.Kind() == egress.Open {
				names = nil
			}
			passed, err := feed(newGate(c.policy, c.port, names...), c.sent, size)
			if whole := passed == c.sent; err == nil != c.passes || c.passes && !whole || !c.passes && whole {
				t.Errorf("%s, port %d, %d bytes at a time of %.90q: passed %d of %d, %v", c.policy.Kind(), c.port, size, c.sent, len(passed), len(c.sent), err)
			}
			if !c.passes && c.policy.Kind() == egress.Restricted && strings.Contains(passed, "Host: evil") {
				t.Errorf("port %d: %q passed before it was refused", c.port, passed)
			}
		}
	}
}

// feed sends through a gate, and then an end.
func feed(g *gate, sent string, size int) (string, error) {
	defer g.close()
	var passed bytes.Buffer
	for p := []byte(sent); len(p) > 0; {
		n := min(size, len(p))
		open, err := g.pass(append([]byte(nil), p[:n]...))
		passed.Write(open)
		if err != nil {
			return passed.String(), err
		}
		p = p[n:]
	}
	rest, err := g.rest()
	passed.Write(rest)
	return passed.String(), err
}

// TestWebSockets pass once the server has agreed.
func TestWebSockets(t *testing.T) {
	for answer, passes := range map[string]bool{"HTTP/1.1 101 Switching Protocols\r\n": true, "HTTP/1.1 200 OK\r\n": false} {
		g := newGate(allow(t, egress.Restricted, "ok.example"), 80, "ok.example")
		head := "GET / HTTP/1.1\r\nHost: ok.example\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n"
		if open, err := g.pass([]byte(head)); err != nil || string(open) != head {
			t.Fatalf("passed %q, %v", open, err)
		}
		if open, err := g.pass([]byte("\x81")); err != nil || len(open) > 0 {
			t.Fatalf("before the answer %q passed, %v", open, err)
		}
		g.heard([]byte(answer))
		open, err := g.pass([]byte("\x05hello"))
		if (err == nil && string(open) == "\x81\x05hello") != passes {
			t.Errorf("after %q: %q, %v", answer, open, err)
		}
		g.close()
	}
}

// TestNothingIsHeldForLong refuses a connection that does not tell what it is for.
func TestNothingIsHeldForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(allow(t, egress.Restricted, "ok.example"), 80, "ok.example")
		defer g.close()
		ended := false
		g.flow.onAbort(func() { ended = true })
		if _, err := g.pass([]byte("USER me")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(heldTime - time.Second)
		synctest.Wait()
		if ended {
			t.Error("it ended early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if e := g.flow.entry(); !ended || e.Verdict != Refused || !strings.Contains(e.Reason, "did not tell within 15s") {
			t.Errorf("%v, %+v", ended, e)
		}
	})
}

// TestGatesHoldLittle bounds what each holds, and all together.
func TestGatesHoldLittle(t *testing.T) {
	policy := allow(t, egress.Restricted, "ok.example")
	g := newGate(policy, 80, "ok.example")
	if _, err := g.pass([]byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeld))); err == nil {
		t.Error("a head without an end is held")
	}
	all := newFlows(time.Now, func(Entry) {})
	var gates []*gate
	for {
		g := newGate(policy, 80, "ok.example")
		g.flow.flows = all
		gates = append(gates, g)
		if _, err := g.pass([]byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHeld-100))); err != nil {
			break
		}
	}
	if held := all.held.Load(); held > allHeld || len(gates) < allHeld/maxHeld {
		t.Errorf("%d gates hold %d bytes", len(gates), held)
	}
	for _, g := range gates {
		g.close()
	}
	if held := all.held.Load(); held != 0 {
		t.Errorf("%d bytes are counted after the end", held)
	}
}

// FuzzGates compares what passes at once and byte by byte.
func FuzzGates(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: ok.example\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"))
	f.Add([]byte("CONNECT ok.example:443 HTTP/1.1\r\n\r\n" + helloFor(f, "ok.example")))
	policies := []egress.Policy{
		allow(f, egress.Restricted, "ok.example"), allow(f, egress.Restricted, "ok.example", "203.0.113.7"),
		egress.Policy{}.Denying(allow(f, egress.Open, "bad.example").Allow...),
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 4<<10 {
			return
		}
		for i, policy := range policies {
			whole, err := feed(newGate(policy, 80, "ok.example"), string(p), max(1, len(p)))
			parts, errParts := feed(newGate(policy, 80, "ok.example"), string(p), 1)
			if (err == nil) != (errParts == nil) || err == nil && (whole != parts || whole != string(p)) {
				t.Errorf("policy %d: %q: %v and %v, %q and %q", i, p, err, errParts, whole, parts)
			}
			if !strings.HasPrefix(string(p), parts) {
				t.Errorf("policy %d: %q became %q", i, p, parts)
			}
		}
	})
}

// TestGatesInConnections refuses a second request for another host, with a reset
// and a reason.
func TestGatesInConnections(t *testing.T) {
	g := newGuest(t, allow(t, egress.Restricted, "ok.example:80"))
	g.serveUDP(t, resolverOfTests.String(), zone{"ok.example": "203.0.113.7"}.answer)
	g.serve(t, "203.0.113.7:80", echoes)
	g.lookup(t, "ok.example")
	conn, err := g.tcp(t, "203.0.113.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	first := "GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n"
	_, _ = io.WriteString(conn, first)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(conn, make([]byte, len(first))); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	if got, err := io.ReadAll(conn); err == nil || len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}
	eventually(t, func() bool {
		return strings.Contains(fmt.Sprint(g.network.Snapshot().Refusals), `asks for "evil.example"`)
	})
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 10 s")
		}
	}
}
