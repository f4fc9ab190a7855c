//go:build vm

package vm_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/test/cable"
)

// TestOddNetworks has computers that are unlike the usual one: behind a proxy that
// intercepts TLS, with a VPN on the guest's own range, without IPv4, without ports.
func TestOddNetworks(t *testing.T) {
	needLong(t)
	n := apart(t)
	if n == nil {
		return
	}
	w, d := theWorld, newDoors(t)
	c := egressCase{n, w, "odd", d}
	bundle := n.corporateProxy(t, "10.0.0.5:3128")
	w.env = append(w.env, "HTTPS_PROXY=http://10.0.0.5:3128", "SSL_CERT_FILE="+bundle)
	if said := w.run(t, nil, "doctor").stdout; !strings.Contains(said, "Start them with --allow 10.0.0.5:3128.") || !strings.Contains(said, "ordinary users may send pings") {
		t.Errorf("the doctor says %s", said)
	}
	w.must(t, "claude", "start", "-n", c.name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1",
		"--allow", "10.0.0.5:3128", "--allow-host", strconv.Itoa(d.opened))
	t.Cleanup(func() { w.remove(c.name) })
	t.Run("proxy", c.proxy)
	t.Run("update", c.update)
	t.Run("vpn", c.vpn)
	t.Run("flood", c.flood)
	t.Run("ports", c.ports)
	t.Run("six", c.sixOnly)
}

// corporateProxy starts a proxy there that opens TLS with certificates of its own
// authority, and gives the file with that.
func (n *internet) corporateProxy(t *testing.T, at string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corporate test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	n.at(t, func() (err error) {
		l, err = net.Listen("tcp", at)
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	n.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go intercept(conn, ca, key)
		}
	})
	file := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// intercept answers one CONNECT, and one request in it, as the host that was asked for.
func intercept(conn net.Conn, ca *x509.Certificate, key *ecdsa.PrivateKey) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || request.Method != http.MethodConnect {
		return
	}
	fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	secret := tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(2), DNSNames: []string{hello.ServerName}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		}, ca, key.Public(), key)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}})
	if inner, err := http.ReadRequest(bufio.NewReader(secret)); err == nil {
		fmt.Fprintf(secret, "HTTP/1.0 200 OK\r\n\r\nproxied for %s", inner.Host)
	}
	_ = secret.Close()
}

// proxy leaves this computer no other way out than a proxy on a private address,
// which one rule names.
func (c egressCase) proxy(t *testing.T) {
	must(t, cable.IP("route", "del", "default"), cable.IP("-6", "route", "del", "default"), cable.IP("route", "add", "10.0.0.5", "via", there4))
	ask := func() result {
		return c.w.run(t, nil, "exec", c.name, "--", "curl", "-sS", "-m", "30", "https://api.anywhere.example/")
	}
	if got := ask(); got.stdout != "proxied for api.anywhere.example" {
		t.Errorf("through the proxy: status %d, %q, %s", got.status, got.stdout, got.stderr)
	}
	c.w.must(t, "network", c.name, "deny", "10.0.0.5:3128")
	if got := ask(); got.status == 0 || !strings.Contains(got.stderr, "connect") {
		t.Errorf("without the rule: status %d, %q, %s", got.status, got.stdout, got.stderr)
	}
	c.w.must(t, "network", c.name, "allow", "10.0.0.5:3128")
	must(t, cable.IP("route", "add", "default", "via", there4), cable.IP("-6", "route", "add", "default", "via", there6))
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// update gives the sandbox its layers anew: what it may reach stays.
func (c egressCase) update(t *testing.T) {
	c.w.must(t, "network", c.name, "deny", "other.example")
	before := c.policy(t)
	c.w.must(t, "stop", c.name)
	c.w.must(t, "update", c.name, "--yes")
	c.w.must(t, "start", "--no-attach", c.name)
	if after := c.policy(t); after != before {
		t.Errorf("the policy was\n%s\nand is\n%s", before, after)
	}
	c.want(t, c.w, c.name, map[try]string{
		{Kind: "tcp", To: "10.0.0.5", Port: 3128}: "open", {Kind: "tcp", To: "10.0.0.5", Port: 80}: "refused",
		{Kind: "dns", To: "10.0.2.3", Name: "other.example"}: "rcode 3",
	})
}

// vpn lets this computer join a network with the addresses that the guest has.
func (c egressCase) vpn(t *testing.T) {
	must(t, cable.IP("link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1", "netns", c.Path()),
		cable.IP("addr", "add", "10.0.2.15/24", "dev", "vpn0"), cable.IP("link", "set", "vpn0", "up"),
		c.There(func() error {
			return cable.IP("addr", "add", "10.0.2.2/24", "dev", "vpn1")
		}), c.There(func() error { return cable.IP("addr", "add", "10.0.2.77/24", "dev", "vpn1") }),
		c.There(func() error { return cable.IP("link", "set", "vpn1", "up") }))
	tries := map[try]string{
		{Kind: "http", To: good4, Port: 80, Name: "x"}:      "open " + good4,
		{Kind: "dns", To: "10.0.2.3", Name: "good.example"}: "rcode 0 answers 1",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.opened}:     "open", // this computer, not the VPN's host
		{Kind: "tcp", To: "10.0.2.2", Port: 80}:             "refused",
		{Kind: "tcp", To: "10.0.2.77", Port: 80}:            "refused|unreachable",
	}
	c.want(t, c.w, c.name, tries)
	c.w.must(t, "stop", c.name)
	c.w.must(t, "start", "--no-attach", c.name)
	c.want(t, c.w, c.name, tries)
	must(t, cable.IP("link", "del", "vpn0"))
}

//go:embed flood.py
var floodScript string

// flood lets one sandbox send and open as much as it can. A second one beside it works
// as ever, and the first one's supervisor keeps within its memory.
func (c egressCase) flood(t *testing.T) {
	const beside, most = "beside", 128 << 10 // KiB
	c.w.must(t, "claude", "start", "-n", beside, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1")
	t.Cleanup(func() { c.w.remove(beside) })
	cmd := c.w.command(t.Context(), "exec", c.name, "--", "sudo", "python3", "-c", floodScript, good4, "40")
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "flooding" {
		t.Fatalf("the guest said %q", lines.Text())
	}
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		lines.Scan()
	}()
	rounds := 0
	for done := false; !done; rounds++ {
		c.want(t, c.w, beside, map[try]string{
			{Kind: "http", To: good4, Port: 80, Name: "x"}:      "open " + good4,
			{Kind: "dns", To: "10.0.2.3", Name: "good.example"}: "rcode 0 answers 1",
			{Kind: "ping", To: good4}:                           "open",
		})
		if kib := c.supervisorMemory(t); kib > most || kib == 0 {
			t.Errorf("the flooded supervisor has %d KiB of its own", kib)
		}
		select {
		case <-flooding:
			done = true
		default:
		}
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(lines.Text(), "opened ") || rounds < 2 {
		t.Errorf("after %d rounds: %v, %q", rounds, err, lines.Text())
	}
	if shown := c.w.must(t, "network", c.name); !strings.Contains(shown, "too many connections") {
		t.Errorf("nothing of the flood was refused:\n%s", shown)
	}
	c.want(t, c.w, c.name, map[try]string{{Kind: "http", To: good4, Port: 80, Name: "x"}: "open " + good4})
}

// supervisorMemory is what the sandbox's supervisor has of its own, in KiB.
func (c egressCase) supervisorMemory(t *testing.T) (kib int64) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.w.home, "sandboxes", c.name, "record.json"))
	must(t, err)
	var r struct{ Pid int }
	must(t, json.Unmarshal(raw, &r))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Pid))
	must(t, err)
	_, line, _ := strings.Cut(string(status), "RssAnon:")
	_, err = fmt.Sscan(line, &kib)
	must(t, err)
	return kib
}

// ports leaves this computer four ports, which are all taken.
func (c egressCase) ports(t *testing.T) {
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	before, err := os.ReadFile(file)
	must(t, err, os.WriteFile(file, []byte("50000 50003"), 0))
	defer func() { must(t, os.WriteFile(file, before, 0)) }()
	var taken []interface{ Close() error }
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			break
		}
		conn, err := net.Dial("tcp", good4+":80")
		taken = append(taken, l)
		if err == nil {
			taken = append(taken, conn)
		}
	}
	for {
		conn, err := net.Dial("tcp", good4+":80")
		if err != nil {
			break
		}
		taken = append(taken, conn)
	}
	c.want(t, c.w, c.name, map[try]string{{Kind: "tcp", To: good4, Port: 80}: "refused|unreachable"})
	got := c.w.run(t, nil, "port", "add", c.name, "0:8123")
	if got.status == 0 || !strings.Contains(got.stderr, "this computer has no port left on 127.0.0.1") {
		t.Errorf("a forward without a port: status %d, %q, %s", got.status, got.stdout, got.stderr)
	}
	for _, x := range taken {
		_ = x.Close()
	}
	c.want(t, c.w, c.name, map[try]string{{Kind: "tcp", To: good4, Port: 443}: "open"})
}

// sixOnly takes this computer's IPv4 away, under the sandbox and before it starts.
func (c egressCase) sixOnly(t *testing.T) {
	must(t, cable.IP("-4", "addr", "flush", "dev", cable.Near))
	c.resolvers(t, resolver6)
	tries := map[try]string{
		{Kind: "http", To: good6, Port: 80, Name: "x"}:                     "open [" + good6 + "]",
		{Kind: "http", To: "six.example", Port: 80, Name: "six"}:           "open [" + good6 + "]",
		{Kind: "tls", To: "good.example", Port: 443, Name: "good.example"}: "open [" + good6 + "]",
		{Kind: "tcp", To: good4, Port: 80}:                                 "refused|unreachable",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.opened}:                    "open",
	}
	c.want(t, c.w, c.name, tries)
	c.w.must(t, "stop", c.name)
	c.w.must(t, "start", "--no-attach", c.name)
	c.want(t, c.w, c.name, tries)
}
