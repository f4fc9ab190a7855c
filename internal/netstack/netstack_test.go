package netstack

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/smolvm/smolvm/internal/egress"
)

func allow(t testing.TB, mode egress.Mode, texts ...string) egress.Policy {
	t.Helper()
	p := egress.Policy{Mode: mode}
	for _, text := range texts {
		r, err := egress.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		p = p.Allowing(r)
	}
	return p
}

// TestCarriesBothWays sends a few MiB there and back over IPv4 and IPv6, ends one
// side first, and compares.
func TestCarriesBothWays(t *testing.T) {
	for _, to := range []string{"203.0.113.7:80", "[2001:db8::7]:80"} {
		t.Run(to, func(t *testing.T) {
			g := newGuest(t, egress.Policy{})
			g.serve(t, to, echoes)
			conn, err := g.tcp(t, to)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			data := make([]byte, 5<<20+123)
			_, _ = rand.Read(data)
			go func() {
				_, _ = conn.Write(data)
				_ = conn.(*gonet.TCPConn).CloseWrite()
			}()
			got := sha256.New()
			size, err := io.Copy(got, conn)
			if want := sha256.Sum256(data); err != nil || size != int64(len(data)) || !bytes.Equal(got.Sum(nil), want[:]) {
				t.Errorf("came back %d of %d bytes, %v", size, len(data), err)
			}
		})
	}
}

// TestClosedPlacesAreResetAtOnce tries what belongs to others. Nothing may be
// dialled for it, and the answer has to come at once.
func TestClosedPlacesAreResetAtOnce(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	for _, to := range []string{
		"10.0.2.2:22", "10.0.2.3:80", "10.0.2.99:80", "10.1.2.3:80", "172.16.0.1:443", "192.168.1.1:80", "100.64.0.1:80", "169.254.169.254:80",
		"168.63.129.16:80", "198.51.100.1:80", "[fd00:ec2::254]:80", "[fd5a:6d6f:6c76::2]:22",
		"[64:ff9b::a00:1]:80", "[2002:7f00:1::]:80", "[fc00::1]:80",
	} {
		begun := time.Now()
		conn, err := g.tcp(t, to)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s is open", to)
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", to, err)
		}
		if took := time.Since(begun); took > 4*time.Second { // 3 s are lost where nobody answers for a neighbour
			t.Errorf("%s: the answer took %v", to, took)
		}
	}
	if d := g.dialed.list(); len(d) > 0 {
		t.Errorf("dialled: %v", d)
	}
	s := g.network.Snapshot()
	if len(s.Refusals) == 0 || s.Refusals[len(s.Refusals)-1].Reason == "" {
		t.Errorf("refusals are not told: %+v", s.Refusals)
	}
}

// TestPortOfThisComputer opens one port, and only that.
func TestPortOfThisComputer(t *testing.T) {
	g := newGuest(t, egress.Policy{Allow: []egress.Rule{egress.HostPort(8080)}})
	g.serve(t, "127.0.0.1:8080", func(c net.Conn) { fmt.Fprint(c, "hello") })
	conn, err := g.tcp(t, "10.0.2.2:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := g.tcp(t, "10.0.2.2:8081"); err == nil {
		t.Error("another port is open")
	}
}

// TestPortOfThisComputerByAnyName asks one for a name that is denied, and as a proxy
// for one that nothing allows: who opens a port opens all that is there.
func TestPortOfThisComputerByAnyName(t *testing.T) {
	policy := egress.Policy{Mode: egress.Restricted, Allow: []egress.Rule{egress.HostPort(8080)}, Deny: allow(t, egress.Open, "bad.example").Allow}
	g := newGuest(t, policy)
	g.serve(t, "127.0.0.1:8080", echoes)
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n",
		"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
	} {
		conn, err := g.tcp(t, "10.0.2.2:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		got := make([]byte, len(request))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != request {
			t.Errorf("%q comes back as %q, %v", request, got, err)
		}
	}
}

func TestUnreachableIsReset(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	if _, err := g.tcp(t, "203.0.113.9:1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	if len(g.dialed.list()) != 1 {
		t.Errorf("dialled: %v", g.dialed.list())
	}
}

// TestBrokenOffConnection tells the guest that the other side did not end in order.
func TestBrokenOffConnection(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serve(t, "203.0.113.7:80", func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	conn, err := g.tcp(t, "203.0.113.7:80")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("x"))
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("a reset looks like an orderly end")
	}
}

func TestDatagrams(t *testing.T) {
	for _, to := range []string{"203.0.113.7:123", "[2001:db8::7]:123"} {
		g := newGuest(t, egress.Policy{})
		g.serveUDP(t, to, func(p []byte) []byte { return append([]byte("re:"), p...) })
		conn := g.udp(t, to)
		for _, size := range []int{1, 1200, 9000, 60000} {
			data := make([]byte, size)
			_, _ = rand.Read(data)
			if _, err := conn.Write(data); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 65535)
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			n, err := conn.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], append([]byte("re:"), data...)) {
				t.Fatalf("%s: %d bytes came back as %d, %v", to, size, n, err)
			}
		}
		if d := g.dialed.list(); len(d) != 1 {
			t.Errorf("one flow has %d sockets", len(d))
		}
	}
}

func TestClosedDatagramsAreUnreachable(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	for _, to := range []string{"10.0.2.2:53", "192.168.1.1:53", "255.255.255.255:67", "224.0.0.251:5353"} {
		conn := g.udp(t, to)
		_, _ = conn.Write([]byte("x"))
	}
	unreachable := make(chan struct{}, 100)
	g.network.nic.watch(func(parts [][]byte) {
		if f := bytes.Join(parts, nil); len(f) > 35 && f[23] == 1 && f[34] == 3 && f[35] == 3 {
			unreachable <- struct{}{}
		}
	})
	conn := g.udp(t, "192.168.1.1:1")
	_, _ = conn.Write([]byte("x"))
	select {
	case <-unreachable:
	case <-time.After(5 * time.Second):
		t.Error("the guest is not told that the port is unreachable")
	}
	if d := g.dialed.list(); len(d) > 0 {
		t.Errorf("dialled: %v", d)
	}
}

// TestPolicyChangesLive ends what is no longer allowed, and lets the rest go on.
func TestPolicyChangesLive(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serve(t, "203.0.113.7:80", echoes)
	g.serve(t, "203.0.113.8:80", echoes)
	stays, err := g.tcp(t, "203.0.113.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	goes, err := g.tcp(t, "203.0.113.8:80")
	if err != nil {
		t.Fatal(err)
	}
	defer goes.Close()
	talk(t, stays)
	talk(t, goes)
	g.network.SetPolicy(allow(t, egress.Restricted, "203.0.113.7"))
	if _, err := io.ReadAll(goes); err == nil {
		t.Error("a forbidden connection ended in order")
	}
	talk(t, stays)
	if _, err := g.tcp(t, "203.0.113.8:80"); err == nil {
		t.Error("a forbidden connection begins")
	}
	g.network.SetPolicy(egress.Policy{Mode: egress.Off})
	if _, err := io.ReadAll(stays); err == nil {
		t.Error("a connection survives that the network is off")
	}
}

func talk(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Time{})
}

// TestNamesOutliveTheirAnswers changes the policy when the answer by which a
// connection began is long forgotten.
func TestNamesOutliveTheirAnswers(t *testing.T) {
	var late atomic.Int64
	g := newGuestWith(t, Config{
		Policy: allow(t, egress.Restricted, "ok.example:9418", "no.example:9418"),
		Now:    func() time.Time { return time.Now().Add(time.Duration(late.Load())) },
	})
	g.serveUDP(t, resolverOfTests.String(), zone{"ok.example": "203.0.113.7", "no.example": "203.0.113.8"}.answer)
	stays, goes := g.named(t, "ok.example", 9418), g.named(t, "no.example", 9418)
	late.Store(int64(time.Hour))
	g.network.SetPolicy(g.network.Policy().Denying(allow(t, egress.Open, "no.example:9418").Allow...))
	if _, err := io.ReadAll(goes); err == nil {
		t.Error("a denied connection ended in order")
	}
	talk(t, stays)
	g.network.SetPolicy(g.network.Policy().Allowing(allow(t, egress.Open, "other.example").Allow...))
	talk(t, stays)
	if _, err := g.tcp(t, "203.0.113.7:9418"); err == nil {
		t.Error("a forgotten answer opens an address")
	}
}

// named looks a name up, and opens an echoing connection to it.
func (g *guest) named(t *testing.T, name string, port uint16) net.Conn {
	t.Helper()
	to := fmt.Sprintf("%s:%d", g.lookup(t, name), port)
	g.serve(t, to, echoes)
	conn, err := g.tcp(t, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	talk(t, conn)
	return conn
}

// TestOpenConnectionsAreJudgedWhenRestricted lets those go on whose name is sure and
// allowed.
func TestOpenConnectionsAreJudgedWhenRestricted(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serveUDP(t, resolverOfTests.String(), zone{"ok.example": "203.0.113.7", "no.example": "203.0.113.8"}.answer)
	for _, name := range []string{"ok.example", "no.example"} {
		g.serve(t, g.lookup(t, name)+":443", echoes)
	}
	g.serve(t, "203.0.113.9:443", echoes)
	begin := func(to, first string) net.Conn {
		conn, err := g.tcp(t, to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, first)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(conn, make([]byte, len(first))); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	hello := helloFor(t, "ok.example")
	stays := begin("203.0.113.7:443", hello)
	goes := map[string]net.Conn{
		"another name":            begin("203.0.113.8:443", helloFor(t, "no.example")),
		"a lie":                   begin("203.0.113.7:443", helloFor(t, "no.example")),
		"a name of no answer":     begin("203.0.113.9:443", hello),
		"no name":                 begin("203.0.113.7:443", "SSH-2.0-x\r\n"),
		"names that may change":   begin("203.0.113.7:443", "GET / HTTP/1.1\r\nHost: ok.example\r\n\r\n"),
		"a proxy on the open net": begin("203.0.113.9:443", "CONNECT no.example:443 HTTP/1.1\r\n\r\n"),
	}
	g.network.SetPolicy(allow(t, egress.Restricted, "ok.example:443"))
	for what, conn := range goes {
		if _, err := io.ReadAll(conn); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s goes on: %v", what, err)
		}
	}
	talk(t, stays)
}

// TestDeniedNamesOnTheOpenNetwork denies a name to a guest that knows its address by
// another way.
func TestDeniedNamesOnTheOpenNetwork(t *testing.T) {
	denied := allow(t, egress.Open, "bad.example").Allow
	g := newGuest(t, egress.Policy{})
	g.serve(t, "203.0.113.7:443", echoes)
	live, err := g.tcp(t, "203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	other, err := g.tcp(t, "203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	talk(t, other)
	bad := helloFor(t, "bad.example")
	_, _ = io.WriteString(live, bad)
	_ = live.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(live, make([]byte, len(bad))); err != nil {
		t.Fatalf("an open network refuses: %v", err)
	}
	g.network.SetPolicy(egress.Policy{}.Denying(denied...))
	if _, err := io.ReadAll(live); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection goes on for a name that was denied: %v", err)
	}
	talk(t, other)
	again, err := g.tcp(t, "203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	_, _ = io.WriteString(again, bad)
	_ = again.SetDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(again); err == nil || len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a denied name is let through: %q, %v", got, err)
	}
}

// TestQUICHidesItsName lets datagrams of a name pass at a port that a rule is for,
// but none of QUIC; the guest is told, so that it falls back.
func TestQUICHidesItsName(t *testing.T) {
	denies := egress.Policy{}.Denying(allow(t, egress.Open, "bad.example").Allow...)
	for _, policy := range []egress.Policy{allow(t, egress.Restricted, "ok.example:123", "ok.example:8443"), denies} {
		g := newGuest(t, policy)
		g.serveUDP(t, resolverOfTests.String(), zone{"ok.example": "203.0.113.7"}.answer)
		g.lookup(t, "ok.example")
		var heard atomic.Int32
		for _, port := range []int{123, 8443} {
			g.serveUDP(t, fmt.Sprintf("203.0.113.7:%d", port), func(p []byte) []byte { heard.Add(1); return p })
		}
		plain := g.udp(t, "203.0.113.7:123")
		_, _ = plain.Write([]byte("\xe3\x00\x06\xec time"))
		_ = plain.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := plain.Read(make([]byte, 100)); err != nil {
			t.Fatalf("%s: no answer: %v", policy.Kind(), err)
		}
		unreachable := g.unreachables()
		quic := g.udp(t, "203.0.113.7:8443")
		_, _ = quic.Write(append([]byte("\xc3\x00\x00\x00\x01\x08"), make([]byte, 1200)...))
		select {
		case <-unreachable:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the guest is not told", policy.Kind())
		}
		if n := heard.Load(); n != 1 {
			t.Errorf("%s: %d datagrams passed", policy.Kind(), n)
		}
		g.network.nic.watch(nil)
	}
}

// unreachables gets something whenever the guest is told that a port is unreachable.
func (g *guest) unreachables() <-chan struct{} {
	found := make(chan struct{}, 100)
	g.network.nic.watch(func(parts [][]byte) {
		f := bytes.Join(parts, nil)
		if len(f) > 35 && f[12] == 8 && f[23] == 1 && f[34] == 3 && f[35] == 3 ||
			len(f) > 55 && f[12] == 0x86 && f[20] == 58 && f[54] == 1 && f[55] == 4 {
			found <- struct{}{}
		}
	})
	return found
}

// TestNobodyTakesDatagrams tells the guest what this computer was told.
func TestNobodyTakesDatagrams(t *testing.T) {
	for _, to := range []string{"203.0.113.7:123", "[2001:db8::7]:123"} {
		g := newGuest(t, egress.Policy{})
		gone, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g.dialed.stands("udp "+to, gone.LocalAddr().String())
		_ = gone.Close()
		unreachable := g.unreachables()
		conn := g.udp(t, to)
		_, _ = conn.Write([]byte("x"))
		select {
		case <-unreachable:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the guest is not told", to)
		}
		eventually(t, func() bool { return g.network.flows.count(egress.UDP) == 0 })
		g.network.nic.watch(nil)
	}
}

// TestEitherLoopback finds programs of this computer that listen on IPv6 only.
func TestEitherLoopback(t *testing.T) {
	g := newGuest(t, egress.Policy{Allow: []egress.Rule{egress.HostPort(8080)}})
	g.serve(t, "[::1]:8080", echoes)
	conn, err := g.tcp(t, "10.0.2.2:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	talk(t, conn)
}

// TestOwnAddressInOtherClothes tries an address of this computer by forms of IPv6
// that lead to it.
func TestOwnAddressInOtherClothes(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	for _, to := range []string{"[64:ff9b::c633:6401]:80", "[2002:c633:6401::1]:80"} {
		if _, err := g.tcp(t, to); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", to, err)
		}
	}
	if d := g.dialed.list(); len(d) > 0 {
		t.Errorf("dialled: %v", d)
	}
}

// TestThousandConnections holds them at the same time and uses each.
func TestThousandConnections(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serve(t, "203.0.113.7:80", echoes)
	var all sync.WaitGroup
	conns := make([]net.Conn, 1000)
	slots := make(chan struct{}, 50)
	for i := range conns {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			conn, err := g.tcp(t, "203.0.113.7:80")
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = conn
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	if n := len(g.network.Snapshot().Live); n != len(conns) {
		t.Errorf("%d connections are live", n)
	}
	for _, conn := range conns {
		talk(t, conn)
		_ = conn.Close()
	}
}

// TestFloodIsRefused opens more than a guest may.
func TestFloodIsRefused(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serve(t, "203.0.113.7:80", echoes)
	g.network.flows.mu.Lock()
	g.network.flows.counts[egress.TCP] = maxTCP
	g.network.flows.mu.Unlock()
	if _, err := g.tcp(t, "203.0.113.7:80"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	last := g.network.Snapshot().Refusals
	if !slices.ContainsFunc(last, func(e Entry) bool { return strings.Contains(e.Reason, "too many") }) {
		t.Errorf("refusals: %+v", last)
	}
}
