//go:build vm

package vm_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// doors are what listens in the namespace of the sandbox's supervisor: all of it is
// closed to the sandbox but one port.
type doors struct {
	opened  int // by --allow-host
	tcp     []int
	knocked atomic.Int64 // at those that nobody opened
}

func newDoors(t *testing.T) *doors {
	t.Helper()
	d := &doors{}
	accept := func(address string, f func(net.Conn)) int {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				f(conn)
				_ = conn.Close()
			}
		}()
		return l.Addr().(*net.TCPAddr).Port
	}
	for _, address := range []string{
		"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0", here4 + ":0", "[" + here6 + "]:0", herePrivate4 + ":22", "[" + herePrivate6 + "]:0", "127.0.0.1:631",
	} {
		d.tcp = append(d.tcp, accept(address, func(net.Conn) { d.knocked.Add(1) }))
	}
	d.opened = accept("127.0.0.1:0", func(c net.Conn) { fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nthe opened door") })
	for _, port := range []string{"53", "5353", "123"} {
		u, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = u.Close() })
		go func() {
			for buf := make([]byte, 100); ; d.knocked.Add(1) {
				if _, _, err := u.ReadFrom(buf); err != nil {
					return
				}
			}
		}()
	}
	return d
}

// TestEgress lets a guest try whatever leads out of its network, in each mode.
func TestEgress(t *testing.T) {
	n := apart(t)
	if n == nil {
		return
	}
	w, name, d := theWorld, "egress", newDoors(t)
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1", "--allow-host", strconv.Itoa(d.opened))
	t.Cleanup(func() { w.remove(name) })
	t.Cleanup(func() {
		if n := d.knocked.Load(); n > 0 {
			t.Errorf("the sandbox was at %d closed doors of this computer", n)
		}
	})
	c := egressCase{n, w, name, d}
	t.Run("open", c.open)
	t.Run("closed", c.closed)
	t.Run("scan", c.scan)
	t.Run("frames", c.frames)
	t.Run("live", c.live)
	t.Run("restricted", c.restricted)
	t.Run("rebinding", c.rebinding)
	t.Run("smoke", c.smoke)
	t.Run("restart", c.restart)
	t.Run("off", c.off)
}

// egressCase is one running sandbox.
type egressCase struct {
	*internet
	w    *world
	name string
	d    *doors
}

// wants probes, and sees that no packet went to a closed address.
func (c egressCase) wants(t *testing.T, wanted map[try]string) {
	t.Helper()
	c.want(t, c.w, c.name, wanted)
	c.untouched(t)
}

func (c egressCase) untouched(t *testing.T) {
	t.Helper()
	c.fence(t)
	if strays := c.seen.strays(); len(strays) > 0 {
		t.Errorf("packets went to closed addresses: %v", strays)
	}
}

// open is the internet by number and by name, both families, and pings.
func (c egressCase) open(t *testing.T) {
	c.wants(t, map[try]string{
		{Kind: "http", To: good4, Port: 80, Name: "x"}:              "open " + good4 + ":80 for x",
		{Kind: "http", To: good6, Port: 80, Name: "x"}:              "open [" + good6 + "]:80 for x",
		{Kind: "tls", To: "good.example", Port: 443, Name: "y"}:     "open " + good4 + ":443 for y|open [" + good6 + "]:443 for y",
		{Kind: "tcp", To: good4, Port: 81}:                          "refused",
		{Kind: "udp", To: good4, Port: 81}:                          "refused",
		{Kind: "ping", To: good4}:                                   "open",
		{Kind: "ping", To: good6}:                                   "open",
		{Kind: "ping", To: other4}:                                  "open",
		{Kind: "ping", To: "10.0.0.5"}:                              "refused|unreachable",
		{Kind: "ping", To: "fd00::5"}:                               "refused|unreachable",
		{Kind: "dns", To: "10.0.2.3", Name: "good.example"}:         "rcode 0 answers 1",
		{Kind: "dns", To: "10.0.2.3", Name: "unknown.example"}:      "rcode 3",
		{Kind: "dns", To: resolver4, Name: "good.example"}:          "rcode 0 answers 1",
		{Kind: "http", To: "rebind.example", Port: 80}:              "refused",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.opened}:             "open",
		{Kind: "tcp", To: "host.smolvm.internal", Port: c.d.opened}: "open",
	})
}

// closed tries every kind of address that is closed, where a host there listens.
func (c egressCase) closed(t *testing.T) {
	tries := map[try]string{}
	for _, to := range append(append([]string{here4, herePrivate4, here6, herePrivate6}, closed4...), closed6...) {
		tries[try{Kind: "tcp", To: to, Port: 80}] = "refused|unreachable"
		tries[try{Kind: "udp", To: to, Port: 53}] = "refused|unreachable|silent"
	}
	for _, to := range []string{"::ffff:10.0.0.5", "::ffff:169.254.169.254", "::10.0.0.5"} {
		tries[try{Kind: "tcp", To: to, Port: 80}] = "refused|unreachable"
	}
	for _, to := range []string{"10.0.0.5", "169.254.169.254", "100.64.0.5", "fd00::5", here4, "10.0.2.2"} {
		tries[try{Kind: "udp", To: to, Port: 5353}] = "refused" // said, not only dropped
	}
	c.wants(t, tries)
	// Only the last refusals are kept, and the ones above came in any order.
	c.wants(t, map[try]string{
		{Kind: "tcp", To: "169.254.169.254", Port: 80}: "refused|unreachable",
		{Kind: "tcp", To: here4, Port: 80}:             "refused|unreachable",
	})
	shown := c.w.must(t, "network", c.name)
	for _, part := range []string{"169.254.169.254", "a metadata service", "an address of this computer", "smolvm network " + c.name + " allow "} {
		if !strings.Contains(shown, part) {
			t.Errorf("the last refusals do not have %q:\n%s", part, shown)
		}
	}
}

// scan looks for open ports of this computer from the sandbox and finds the one that
// was opened. The long tier looks at all of them.
func (c egressCase) scan(t *testing.T) {
	ranges := [][2]int{{1, 1024}}
	for _, port := range append(c.d.tcp, c.d.opened) {
		ranges = append(ranges, [2]int{port, port})
	}
	if *long {
		ranges = [][2]int{{1, 65535}}
	}
	var tries []try
	for _, to := range []string{"10.0.2.2", "fd5a:6d6f:6c76::2", here4, here6, herePrivate4, herePrivate6} {
		for _, r := range ranges {
			tries = append(tries, try{Kind: "scan", To: to, Port: r[0], Last: r[1]})
		}
	}
	opened := fmt.Sprintf("found %d", c.d.opened)
	for i, got := range c.probe(t, c.w, c.name, tries...) {
		x := tries[i]
		want := "found "
		if gateway := x.To == "10.0.2.2" || x.To == "fd5a:6d6f:6c76::2"; gateway && x.Port <= c.d.opened && c.d.opened <= x.Last {
			want = opened // whichever loopback it is on
		}
		if got.Result != want {
			t.Errorf("ports %d to %d of %s: %s, want %q", x.Port, x.Last, x.To, got.Result, want)
		}
	}
	c.untouched(t)
}

// frames sends what no kernel would. The network survives it.
func (c egressCase) frames(t *testing.T) {
	for i, got := range c.probe(t, c.w, c.name, hostileFrames()...) {
		if got.Result != "sent" {
			t.Errorf("frame %d: %s", i, got.Result)
		}
	}
	c.wants(t, map[try]string{{Kind: "http", To: good4, Port: 80, Name: "alive"}: "open"})
}

// live opens a private address and closes it under a connection.
func (c egressCase) live(t *testing.T) {
	private := try{Kind: "http", To: "10.0.0.5", Port: 80, Name: "p"}
	c.w.must(t, "network", c.name, "allow", "10.0.0.5:80")
	c.want(t, c.w, c.name, map[try]string{private: "open 10.0.0.5:80", {Kind: "tcp", To: "10.0.0.5", Port: 443}: "refused", {Kind: "tcp", To: "10.0.0.6", Port: 80}: "refused"})
	cmd := c.w.command(t.Context(), "exec", c.name, "--", "python3", "-c",
		"import socket\ns=socket.create_connection(('10.0.0.5',80));print('connected',flush=True)\ntry: print('end' if not s.recv(1) else 'data')\nexcept OSError as e: print(e.strerror)")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "connected" {
		t.Fatalf("the guest said %q", lines.Text())
	}
	c.w.must(t, "network", c.name, "deny", "10.0.0.5:80")
	if !lines.Scan() || !strings.Contains(lines.Text(), "reset") {
		t.Errorf("the connection ended with %q", lines.Text())
	}
	_ = cmd.Wait()
	c.fence(t)
	c.seen.strays() // of what was allowed
	c.wants(t, map[try]string{private: "refused"})
}

// restricted reaches what its rules name, and nothing by a trick.
func (c egressCase) restricted(t *testing.T) {
	c.w.must(t, "network", c.name, "restricted")
	c.w.must(t, "network", c.name, "allow", "good.example:443", "good.example:80", "*.good.example")
	asked := c.names.count("bad.example")
	c.wants(t, map[try]string{
		{Kind: "tcp", To: hidden4, Port: 443}:                         "refused", // by number, without a question
		{Kind: "tls", To: other4, Port: 443, Name: "good.example"}:    "refused", // a lie opens nothing
		{Kind: "tcp", To: resolver4, Port: 443}:                       "refused", // DNS over HTTPS
		{Kind: "tcp", To: resolver4, Port: 853}:                       "refused", // and over TLS
		{Kind: "dns", To: resolver4, Name: "good.example"}:            "refused", // another resolver
		{Kind: "dns", To: "10.0.2.3", Name: "bad.example"}:            "rcode 3",
		{Kind: "dns", To: "10.0.2.3", Name: "xn--data.evil.example"}:  "rcode 3",
		{Kind: "dns", To: "10.0.2.3", Name: "good.example"}:           "rcode 0 answers 1",
		{Kind: "dns", To: "10.0.2.3", Name: "good.example", Port: 28}: "rcode 0 answers 1",
		{Kind: "dns", To: "10.0.2.3", Name: "unknown.good.example"}:   "rcode 3",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.opened}:               "open", // named by the start
		{Kind: "tcp", To: "10.0.0.5", Port: 80}:                       "refused",
		{Kind: "udp", To: hidden4, Port: 443}:                         "refused",
		{Kind: "ping", To: hidden4}:                                   "refused|unreachable",
	})
	c.wants(t, map[try]string{ // the names' addresses are known now
		{Kind: "tls", To: "good.example", Port: 443, Name: "good.example"}: "open",
		{Kind: "tls", To: good4, Port: 443, Name: "good.example"}:          "open",
		{Kind: "tls", To: good6, Port: 443, Name: "good.example"}:          "open",
		{Kind: "http", To: good4, Port: 80, Name: "good.example"}:          "open",
		{Kind: "tls", To: good4, Port: 443, Name: "bad.example"}:           "reset",
		{Kind: "http", To: good4, Port: 80, Name: "bad.example"}:           "reset",
		{Kind: "tcp", To: good4, Port: 8080}:                               "refused",
		{Kind: "udp", To: good4, Port: 443}:                                "refused", // QUIC
	})
	if c.names.count("bad.example") != asked {
		t.Error("a refused name was asked for")
	}
	for i, got := range c.probe(t, c.w, c.name, hostileFrames()...) {
		if got.Result != "sent" {
			t.Errorf("frame %d: %s", i, got.Result)
		}
	}
	c.untouched(t)
	for _, to := range []string{hidden4 + ":443", other4 + ":443", resolver4 + ":443", resolver4 + ":853"} {
		if c.seen.has("tcp " + to) {
			t.Errorf("a packet went to %s, which no rule names", to)
		}
	}
}

// rebinding gives allowed names closed addresses.
func (c egressCase) rebinding(t *testing.T) {
	tries := map[try]string{}
	for _, name := range []string{"rebind.good.example", "home.good.example", "tunnel.good.example"} {
		tries[try{Kind: "dns", To: "10.0.2.3", Name: name}] = "rcode 0"
		tries[try{Kind: "dns", To: "10.0.2.3", Name: name, Port: questionAAAA}] = "rcode 0"
	}
	c.wants(t, tries)
	tries = map[try]string{{Kind: "tcp", To: "rebind.good.example", Port: 80}: "refused", {Kind: "tcp", To: "home.good.example", Port: 22}: "refused"}
	for _, to := range []string{"10.0.0.5", "169.254.169.254", "fd00:ec2::254", here4, herePrivate4, here6, "64:ff9b::a00:5", "2002:a00:5::5"} {
		tries[try{Kind: "tcp", To: to, Port: 80}] = "refused"
	}
	c.wants(t, tries)
	c.names.set("deep.good.example", "10.0.0.5") // what was public is private now
	c.wants(t, map[try]string{{Kind: "tcp", To: "deep.good.example", Port: 80}: "refused"})
}

// smoke runs what the preset promises under its own rules, which let its agent's own
// host be reached and nothing else: not one packet goes elsewhere.
func (c egressCase) smoke(t *testing.T) {
	const own = "api.anthropic.com"
	c.names.set(own, other4)
	c.seen.begin()
	if got := c.w.must(t, "exec", c.name, "--", "claude", "--version"); !strings.HasPrefix(got, publishedVersion(t)+" ") {
		t.Errorf("the agent says %q", got)
	}
	shown := c.w.must(t, "network", c.name)
	if !strings.Contains(shown, "restricted to what is allowed") || !strings.Contains(shown, "api.anthropic.com") {
		t.Errorf("the policy:\n%s", shown)
	}
	c.wants(t, map[try]string{
		{Kind: "tls", To: own, Port: 443, Name: own}:                 "open " + other4,
		{Kind: "tls", To: own, Port: 443, Name: "evil.example"}:      "reset", // whose address is the same
		{Kind: "http", To: own, Port: 80, Name: own}:                 "refused",
		{Kind: "tcp", To: own, Port: 22}:                             "refused",
		{Kind: "udp", To: own, Port: 443}:                            "refused",
		{Kind: "ping", To: other4}:                                   "refused|unreachable",
		{Kind: "dns", To: "10.0.2.3", Name: "evil.example"}:          "rcode 3",
		{Kind: "dns", To: resolver4, Name: own}:                      "refused",
		{Kind: "tcp", To: hidden4, Port: 443}:                        "refused",
		{Kind: "tcp", To: "10.0.0.5", Port: 443}:                     "refused",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.tcp[len(c.d.tcp)-1]}: "refused", // port 631 of this computer
	})
	if elsewhere := c.seen.beside("tcp "+other4+":443", "udp "+resolver4+":53", "tcp "+resolver4+":53"); len(elsewhere) > 0 {
		t.Errorf("packets went elsewhere: %v", elsewhere)
	}
}

// restart stops and starts the sandbox: its policy is the same.
func (c egressCase) restart(t *testing.T) {
	before := c.policy(t)
	c.w.must(t, "stop", c.name)
	c.w.must(t, "start", "--no-attach", c.name)
	if after := c.policy(t); after != before {
		t.Errorf("the policy was\n%s\nand is\n%s", before, after)
	}
	c.wants(t, map[try]string{
		{Kind: "tcp", To: good4, Port: 443}:                         "refused", // nothing was asked for yet
		{Kind: "tcp", To: "10.0.0.5", Port: 80}:                     "refused",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.opened}:             "open",
		{Kind: "dns", To: "10.0.2.3", Name: "bad.example"}:          "rcode 3",
		{Kind: "dns", To: "10.0.2.3", Name: "other.example"}:        "rcode 3",
		{Kind: "ping", To: good4}:                                   "refused|unreachable",
		{Kind: "http", To: "six.example", Port: 80, Name: "anyone"}: "error",
	})
}

// policy is what network --json says but for connections.
func (c egressCase) policy(t *testing.T) string {
	t.Helper()
	var envelope struct {
		Data struct {
			Mode        string
			Allow, Deny []string
		}
	}
	if err := json.Unmarshal([]byte(c.w.must(t, "network", c.name, "--json")), &envelope); err != nil || envelope.Data.Mode == "" {
		t.Fatalf("network --json: %+v, %v", envelope, err)
	}
	return fmt.Sprint(envelope.Data)
}

// off closes all, the doors too; exec does not need the network.
func (c egressCase) off(t *testing.T) {
	c.w.must(t, "network", c.name, "off")
	c.wants(t, map[try]string{
		{Kind: "tcp", To: good4, Port: 80}:                          "refused",
		{Kind: "tcp", To: good6, Port: 80}:                          "refused",
		{Kind: "tcp", To: "10.0.2.2", Port: c.d.opened}:             "refused",
		{Kind: "dns", To: "10.0.2.3", Name: "good.example"}:         "rcode 3",
		{Kind: "dns", To: "10.0.2.3", Name: "host.smolvm.internal"}: "rcode 3",
		{Kind: "udp", To: good4, Port: 53}:                          "refused",
		{Kind: "ping", To: good4}:                                   "refused|unreachable",
	})
	if got := c.w.must(t, "exec", c.name, "--", "cat", "/etc/hostname"); got != c.name+"\n" {
		t.Errorf("exec gave %q", got)
	}
}
