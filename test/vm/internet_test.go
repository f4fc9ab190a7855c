//go:build vm

package vm_test

import (
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/test/cable"
)

// internet is a cable to a namespace whose hosts stand for the internet, for private
// networks and for metadata services.
type internet struct {
	*cable.Cable
	seen    *witness
	names   *resolver
	running sync.WaitGroup
}

// Addresses of both ends of the cable, and of hosts there. All are of ranges that
// nobody routes; those that count as public are of those for documentation.
const (
	here4, here6, there4, there6 = cable.Here4, cable.Here6, cable.There4, cable.There6
	herePrivate4, herePrivate6   = "10.20.0.2", "fd00:20::2"

	good4, good6, other4, hidden4 = "203.0.113.10", "2001:db8:2::10", "203.0.113.20", "203.0.113.30"
	resolver4, resolver6          = "203.0.113.53", "2001:db8:2::53"
)

// closed4 and closed6 are hosts there that no sandbox may reach unless it is told.
var (
	closed4 = []string{
		"10.0.0.5", "172.16.0.5", "172.31.255.5", "192.168.1.5", "100.64.0.5", "100.100.100.200", "169.254.1.5",
		"169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "240.0.0.5", "224.0.0.251", "239.255.255.250", "255.255.255.255",
	}
	closed6 = []string{"fc00::5", "fd00::5", "fd00:ec2::254", "fd20:ce::254", "fec0::5", "64:ff9b::a00:5", "64:ff9b:1::5", "2002:a00:5::5", "2001::5", "ff0e::5"}
)

// apart runs the calling test once more in namespaces of its own, and gives that
// run its internet. The first run gets nil and is over.
func apart(t *testing.T) *internet {
	t.Helper()
	if !cable.Apart(t, "-smolvm", theWorld.bin, "-images", *images, fmt.Sprintf("-long=%t", *long)) {
		return nil
	}
	return newInternet(t)
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{Cable: cable.Lay(t)}
	n.wire(t)
	n.seen = newWitness(t, n)
	n.names = newResolver(t, n)
	n.serve(t)
	n.resolvers(t, resolver4)
	// Pings of ordinary users are a matter of the namespace.
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
		t.Fatal(err)
	}
	return n
}

// at runs f in the namespace there.
func (n *internet) at(t *testing.T, f func() error) {
	t.Helper()
	if err := n.There(f); err != nil {
		t.Fatal(err)
	}
}

// wire puts the hosts there, and private addresses on both ends of the cable.
func (n *internet) wire(t *testing.T) {
	t.Helper()
	hosts := append([]string{good4, other4, hidden4, resolver4}, closed4[:11]...)
	hosts = append(append(hosts, good6, resolver6), closed6[:len(closed6)-1]...)
	n.at(t, func() error {
		return errors.Join(cable.IP("route", "add", "10.20.0.0/24", "dev", cable.Far), cable.IP("route", "add", "fd00:20::/64", "dev", cable.Far))
	})
	err := errors.Join(n.Host(hosts...), cable.IP("addr", "add", herePrivate4+"/24", "dev", cable.Near),
		cable.IP("addr", "add", herePrivate6+"/64", "dev", cable.Near, "nodad"))
	if err != nil {
		t.Fatal(err)
	}
}

// resolvers says which resolvers this computer asks.
func (n *internet) resolvers(t *testing.T, all ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := ""
	for _, a := range all {
		text += "nameserver " + a + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH) })
}

// listen listens on all addresses of the namespace there.
func (n *internet) listen(t *testing.T, port int) net.Listener {
	t.Helper()
	var l net.Listener
	n.at(t, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serve starts the web server that every address there has: each page tells the
// address that was connected to and the name that was asked for.
func (n *internet) serve(t *testing.T) {
	t.Helper()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		_, _ = fmt.Fprintf(w, "%s for %s\n", local, r.Host)
	})
	plain := httptest.NewUnstartedServer(page)
	plain.Listener = n.listen(t, 80)
	plain.Start()
	t.Cleanup(plain.Close)
	secret := httptest.NewUnstartedServer(page)
	secret.Listener = n.listen(t, 443)
	secret.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secret.Config.ErrorLog = nil
	secret.StartTLS()
	t.Cleanup(secret.Close)
}

//go:embed probe.py
var probeScript string

// probe runs probe.py in a sandbox with a list of things to try, and gives what
// became of each.
func (n *internet) probe(t *testing.T, w *world, name string, tries ...try) []outcome {
	t.Helper()
	raw, err := json.Marshal(tries)
	if err != nil {
		t.Fatal(err)
	}
	r := w.run(t, strings.NewReader(string(raw)), "exec", name, "--", "sudo", "python3", "-c", probeScript)
	var got []outcome
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || len(got) != len(tries) {
		t.Fatalf("the probe: %v, status %d, stdout %q, stderr %s", err, r.status, r.stdout, r.stderr)
	}
	return got
}

// try is one thing to try in a guest: see probe.py.
type try struct {
	Kind string `json:"kind"` // tcp, udp, ping, tls, dns, frame, scan
	To   string `json:"to,omitempty"`
	Port int    `json:"port,omitempty"`
	Name string `json:"name,omitempty"` // SNI, or the question
	Hex  string `json:"hex,omitempty"`  // a frame
	Last int    `json:"last,omitempty"` // port of a scan
}

func (x try) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %d %s", x.Kind, x.To, x.Port, x.Name))
}

// outcome is what became of it.
type outcome struct {
	Result  string  `json:"result"`
	Seconds float64 `json:"seconds"`
}

// soon is how long an answer may take on an emulated machine that is busy: what
// hangs takes the probe's whole 20 s.
const soon = 8

// want probes, and compares each outcome's result with what is wanted. Nothing may hang.
func (n *internet) want(t *testing.T, w *world, name string, wanted map[try]string) {
	t.Helper()
	tries := make([]try, 0, len(wanted))
	for x := range wanted {
		tries = append(tries, x)
	}
	for i, got := range n.probe(t, w, name, tries...) {
		want := wanted[tries[i]]
		if !slices.ContainsFunc(strings.Split(want, "|"), func(x string) bool { return strings.HasPrefix(got.Result, x) }) {
			t.Errorf("%s: %s after %.1f s, want %s", tries[i], got.Result, got.Seconds, want)
		} else if got.Seconds > soon && tries[i].Kind != "tls" { // which an emulated processor is slow at
			t.Errorf("%s: %s only after %.1f s", tries[i], got.Result, got.Seconds)
		}
	}
}

// fence waits until all that was sent before it has been seen there.
func (n *internet) fence(t *testing.T) {
	t.Helper()
	mark := time.Now().UnixNano()%20000 + 20000
	conn, err := net.Dial("udp", net.JoinHostPort(there4, strconv.FormatInt(mark, 10)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("fence")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last packet is seen", func() bool { return n.seen.has(fmt.Sprintf("udp %s:%d", there4, mark)) })
}
