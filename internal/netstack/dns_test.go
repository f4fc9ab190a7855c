package netstack

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
)

// zone is what the computer's resolver of a test knows.
type zone map[string]string

// answer answers for addresses of IPv4.
func (z zone) answer(query []byte) []byte {
	q, rcode := parseQuery(query)
	if rcode != 0 {
		return nil
	}
	text, ok := z[q.name]
	if !ok {
		return reply(query, q, rcodeName)
	}
	a := netip.MustParseAddr(text)
	if q.kind != typeA {
		a = netip.Addr{}
	}
	return local(query, q, a)
}

func query(name string, kind uint16, edns bool) []byte {
	m := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		m = append(m, byte(len(label)))
		m = append(m, label...)
	}
	m = append(m, 0)
	m = binary.BigEndian.AppendUint16(m, kind)
	m = append(m, 0, 1)
	if edns {
		m[11] = 1
		m = append(m, 0, 0, typeOPT, 0x10, 0, 0, 0, 0, 0, 0, 0)
	}
	return m
}

// ask asks the sandbox's resolver as the guest's library does.
func (g *guest) ask(t testing.TB, name string, kind uint16) []byte {
	t.Helper()
	conn := g.udp(t, "10.0.2.3:53")
	if _, err := conn.Write(query(name, kind, true)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, maxMessage)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("%s: no answer: %v", name, err)
	}
	return buf[:n]
}

// lookup gives the address of a name, or the response code.
func (g *guest) lookup(t testing.TB, name string) string {
	t.Helper()
	answer := g.ask(t, name, typeA)
	found := fmt.Sprint("rcode ", answer[3]&0xf)
	q, err := parseAnswer(answer)
	if err == nil {
		err = addresses(answer, q, func(a netip.Addr, _ time.Duration) { found = a.String() })
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestNamesAreForwardedAsTheyAre(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serveUDP(t, resolverOfTests.String(), zone{"api.example": "203.0.113.7"}.answer)
	for name, want := range map[string]string{"API.example": "203.0.113.7", "none.example": "rcode 3", "host.smolvm.internal": "10.0.2.2"} {
		if got := g.lookup(t, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if m := g.ask(t, "host.smolvm.internal", typeAAAA); m[3]&0xf != 0 || m[7] != 0 {
		t.Errorf("IPv6 of the host: %x", m)
	}
}

// TestNamesOverTCP asks two questions over one connection.
func TestNamesOverTCP(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serve(t, resolverOfTests.String(), func(c net.Conn) {
		m, err := readFramed(c, maxMessage)
		if err == nil {
			_ = writeFramed(c, zone{"api.example": "203.0.113.7"}.answer(m))
		}
	})
	conn, err := g.tcp(t, "10.0.2.3:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		if err := writeFramed(conn, query("api.example", typeA, false)); err != nil {
			t.Fatal(err)
		}
		m, err := readFramed(conn, maxMessage)
		if err != nil || m[7] != 1 {
			t.Fatalf("got %x, %v", m, err)
		}
	}
}

// TestResolverThatIsSilent is passed over, and liars are not believed.
func TestResolverThatIsSilent(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	second := netip.MustParseAddrPort("198.51.100.54:53")
	g.network.Resolvers = func() []netip.AddrPort { return []netip.AddrPort{resolverOfTests, second} }
	g.serveUDP(t, resolverOfTests.String(), func(q []byte) []byte {
		m := zone{"api.example": "203.0.113.66"}.answer(q)
		m[0] ^= 1 // another question's number
		return m
	})
	g.serveUDP(t, second.String(), zone{"api.example": "203.0.113.7"}.answer)
	if got := g.lookup(t, "api.example"); got != "203.0.113.7" {
		t.Errorf("got %s", got)
	}
	g.network.Resolvers = func() []netip.AddrPort { return nil }
	if got := g.lookup(t, "api.example"); got != "rcode 2" {
		t.Errorf("without a resolver: %s", got)
	}
}

func TestMalformedQuestions(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	good := query("a.example", typeA, true)
	for cut := range good {
		if m := g.network.resolve(t.Context(), good[:cut], "udp"); m != nil && m[3]&0xf != rcodeFormat {
			t.Errorf("a question cut at %d: %x", cut, m)
		}
	}
	notify := append([]byte(nil), good...)
	notify[2] |= 4 << 3
	if m := g.network.resolve(t.Context(), notify, "udp"); m[3]&0xf != rcodeNotImplemented {
		t.Errorf("another operation: %x", m)
	}
	if d := g.dialed.list(); len(d) > 0 {
		t.Errorf("dialled: %v", d)
	}
}

// TestRestrictedByName lets a name through by its address, port and the name that
// the connection tells, and nothing else.
func TestRestrictedByName(t *testing.T) {
	g := newGuest(t, allow(t, egress.Restricted, "api.example:443", "api.example:80", "api.example:22", "*.cdn.example:443"))
	g.serveUDP(t, resolverOfTests.String(), zone{
		"api.example": "203.0.113.7", "evil.example": "203.0.113.8", "x.cdn.example": "203.0.113.7", "rebound.cdn.example": "192.168.1.1",
	}.answer)
	tlsServer(t, g, "203.0.113.7:443")
	g.serve(t, "203.0.113.7:22", func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-test\r\n"); echoes(c) })
	g.serve(t, "203.0.113.7:80", func(c net.Conn) { _, _ = c.Read(make([]byte, 100)); fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\n") })

	if _, err := g.tcp(t, "203.0.113.7:443"); err == nil {
		t.Error("an address is open before anybody asked for its name")
	}
	if got := g.lookup(t, "evil.example"); got != "rcode 3" {
		t.Errorf("a name that nobody allowed is %s", got)
	}
	if m := g.ask(t, "evil.example", typeA); !bytes.Contains(m, []byte("SmolVM: no rule allows the name")) {
		t.Errorf("the answer does not say why: %q", m)
	}
	g.lookup(t, "api.example")
	for name, allowed := range map[string]bool{"api.example": true, "x.cdn.example": true, "evil.example": false, "API.EXAMPLE": true, "": true} {
		conn, err := g.tcp(t, "203.0.113.7:443")
		if err != nil {
			t.Fatal(err)
		}
		client := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		err = client.HandshakeContext(context.Background())
		if (err == nil) != allowed {
			t.Errorf("TLS for %q: %v", name, err)
		}
		_ = conn.Close()
	}
	for host, allowed := range map[string]bool{"api.example": true, "Api.Example:80": true, "evil.example": false} {
		conn, err := g.tcp(t, "203.0.113.7:80")
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"GET / HT", "TP/1.1\r\nUser-Agent: x\r\nHo", "st: " + host + "\r\n\r\n"} {
			_, _ = io.WriteString(conn, part)
			time.Sleep(time.Millisecond) // parts arrive as parts
		}
		got, _ := io.ReadAll(conn)
		if strings.Contains(string(got), "200 OK") != allowed {
			t.Errorf("HTTP for %s gave %q", host, got)
		}
		_ = conn.Close()
	}
	ssh, err := g.tcp(t, "203.0.113.7:22")
	if err != nil {
		t.Fatal(err)
	}
	defer ssh.Close()
	if _, err := io.ReadFull(ssh, make([]byte, 14)); err != nil {
		t.Errorf("a server that speaks first is not heard: %v", err)
	}
	talk(t, ssh)
	for _, to := range []string{"203.0.113.7:8443", "203.0.113.8:443", "8.8.8.8:853", "192.168.1.1:443"} {
		g.lookup(t, "rebound.cdn.example")
		if _, err := g.tcp(t, to); err == nil {
			t.Errorf("%s is open", to)
		}
	}
	reasons := fmt.Sprint(g.network.Snapshot().Refusals)
	for _, want := range []string{`asks for "evil.example"`, "no rule allows the name", "a private network"} {
		if !strings.Contains(reasons, want) {
			t.Errorf("no refusal says %q: %s", want, reasons)
		}
	}
}

// TestDotInsideALabel asks for a name whose one label looks like an allowed name.
func TestDotInsideALabel(t *testing.T) {
	g := newGuest(t, allow(t, egress.Restricted, "ok.example", "*.ok.example"))
	for _, labels := range [][]string{{"ok.example"}, {"x.ok.example"}, {"x", "ok.example"}} {
		m := query("x", typeA, false)[:dnsHeader]
		for _, label := range labels {
			m = append(append(m, byte(len(label))), label...)
		}
		m = append(m, 0, 0, typeA, 0, 1)
		if got := g.network.resolve(t.Context(), m, "udp"); len(got) < dnsHeader || got[3]&0xf != rcodeName {
			t.Errorf("%q: %x", labels, got)
		}
	}
	if d := g.dialed.list(); len(d) > 0 {
		t.Errorf("a resolver was asked: %v", d)
	}
}

// TestFloodOfQuestions is answered with a refusal, and not passed on.
func TestFloodOfQuestions(t *testing.T) {
	g := newGuest(t, egress.Policy{})
	g.serveUDP(t, resolverOfTests.String(), zone{"api.example": "203.0.113.7"}.answer)
	g.network.asks = newRate(func() time.Time { return time.Unix(1000, 0) }, asksPerSecond, 3)
	for range 3 {
		if got := g.lookup(t, "api.example"); got != "203.0.113.7" {
			t.Fatalf("got %s", got)
		}
	}
	if got := g.lookup(t, "api.example"); got != "rcode 5" {
		t.Errorf("one too many: %s", got)
	}
}

func TestRate(t *testing.T) {
	now := time.Unix(1000, 0)
	r := newRate(func() time.Time { return now }, 10, 2)
	for i := range 3 {
		if got := r.take(); got != (i < 2) {
			t.Errorf("the burst of 2: take %d gives %v", i, got)
		}
	}
	now = now.Add(-time.Hour) // a clock that was set
	if r.take() {
		t.Error("a clock that goes back gives credit")
	}
	now = now.Add(100 * time.Millisecond)
	if !r.take() || r.take() {
		t.Error("a tenth of a second is not one")
	}
}

// TestNameIsForgotten ends a name's right to its address with the answer's life.
func TestNameIsForgotten(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPins(func() time.Time { return now })
	a := netip.MustParseAddr("203.0.113.7")
	p.add(a, "short.example", time.Second)
	p.add(a, "long.example", time.Hour)
	p.add(a, "long.example", time.Second) // a later answer takes nothing back
	now = now.Add(leastPin - 1)
	if got := p.of(a); len(got) != 2 {
		t.Errorf("within a minute: %v", got)
	}
	now = now.Add(2)
	if got := p.of(a); len(got) != 1 || got[0] != "long.example" {
		t.Errorf("after a minute: %v", got)
	}
	now = now.Add(time.Hour)
	if got := p.of(a); len(got) != 0 {
		t.Errorf("after an hour: %v", got)
	}
	for i := range 3 * maxPinned {
		p.add(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), "x", time.Duration(i)*time.Second)
	}
	for i := range 3 * maxNames {
		p.add(a, fmt.Sprint(i), time.Hour)
	}
	if len(p.all) > maxPinned || len(p.of(a)) != maxNames {
		t.Errorf("%d addresses, %d names of one", len(p.all), len(p.of(a)))
	}
}

// TestHiddenNamesAreUncovered takes ECH out of an answer whose later records point
// into what follows it.
func TestHiddenNamesAreUncovered(t *testing.T) {
	q := query("api.example", typeHTTPS, false)
	m := append([]byte(nil), q...)
	m[2], m[3] = 0x81, 0x80
	m[7], m[9] = 1, 2 // one answer, two of authority
	ech := append([]byte{0, keyECH, 0, 4}, "hide"...)
	data := append([]byte{0, 1, 0, 0, 1, 0, 3, 2, 'h', '2'}, ech...)
	data = append(data, 0, 6, 0, 2, 7, 7)
	m = append(m, 0xc0, 12, 0, typeHTTPS, 0, 1, 0, 0, 0, 60, 0, byte(len(data)))
	m = append(m, data...)
	m = append(m, 0xc0, 12, 0, typeNS, 0, 1, 0, 0, 0, 60, 0, 5)
	at := len(m)
	m = append(m, 2, 'n', 's', 0xc0, 12)
	m = append(m, 0xc0, byte(at), 0, typeA, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9)

	g := newGuest(t, allow(t, egress.Restricted, "api.example"))
	g.serveUDP(t, resolverOfTests.String(), func([]byte) []byte { return m })
	got := g.ask(t, "api.example", typeHTTPS)
	if bytes.Contains(got, []byte("hide")) || len(got) != len(m)-len(ech) {
		t.Fatalf("%d of %d bytes: %x", len(got), len(m), got)
	}
	parsed, err := parseAnswer(got)
	if err != nil {
		t.Fatal(err)
	}
	var owners []string
	if err := eachRecord(got, parsed.end, func(r resource) {
		name, _, err := readName(got, r.owner)
		owners = append(owners, fmt.Sprint(name, " ", r.kind, " ", r.size, " ", err))
	}); err != nil {
		t.Fatal(err)
	}
	if want := "[api.example 65 16 <nil> api.example 2 5 <nil> ns.api.example 1 4 <nil>]"; fmt.Sprint(owners) != want {
		t.Errorf("records %v, want %v", owners, want)
	}
	g.network.SetPolicy(egress.Policy{})
	if open := g.ask(t, "api.example", typeHTTPS); !bytes.Equal(open, m) {
		t.Error("an open network changes answers")
	}
}

// FuzzMessages takes what guests ask and what resolvers answer apart.
func FuzzMessages(f *testing.F) {
	f.Add(query("a.example", typeA, true))
	f.Add(query("a.example", typeHTTPS, false))
	f.Fuzz(func(t *testing.T, m []byte) {
		q, rcode := parseQuery(m)
		if rcode == 0 {
			if q.end > len(m) || strings.Count(strings.ReplaceAll(q.name, `\.`, ""), ".") > 126 {
				t.Fatalf("%q asks for %q, up to byte %d", m, q.name, q.end)
			}
			_ = refusal(m, q, "no")
			_ = local(m, q, netip.MustParseAddr("10.0.2.2"))
		} else if rcode > 0 {
			_ = reply(m, q, rcode)
		}
		if len(m) < dnsHeader {
			return
		}
		if q, err := parseAnswer(m); err == nil {
			_ = addresses(m, q, func(netip.Addr, time.Duration) {})
			if out, err := withoutECH(m, q); err == nil && len(out) > len(m) {
				t.Fatal("a message grew")
			}
		}
	})
}

func tlsServer(t *testing.T, g *guest, target string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	g.serve(t, target, func(c net.Conn) { _ = tls.Server(c, config).HandshakeContext(context.Background()) })
}
