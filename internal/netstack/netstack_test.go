package netstack

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
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
