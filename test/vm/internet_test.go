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
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	namespace "github.com/smolvm/smolvm/internal/process"
)

// apartMark tells the test binary that it runs in namespaces of its own.
const apartMark = "SMOLVM_TEST_APART"

// internet is a world without a way out of it: the namespace "here", where this
// process and the sandboxes run, has one cable to the namespace "there", whose
// hosts stand for the internet, for private networks and for metadata services.
// Nothing that a sandbox sends can leave the computer.
type internet struct {
	there   int // descriptor of the namespace
	seen    *witness
	names   *resolver
	running sync.WaitGroup
}

// Addresses of both ends of the cable, and of hosts there. All are of ranges that
// nobody routes; those that count as public are of those for documentation.
const (
	here4, here6, herePrivate4, herePrivate6 = "198.51.100.2", "2001:db8:1::2", "10.20.0.2", "fd00:20::2"
	there4, there6                           = "198.51.100.1", "2001:db8:1::1"

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
	if os.Getenv(apartMark) != "" {
		return newInternet(t)
	}
	probe := exec.Command("sh", "-c", "ip link set lo up && ip link add up0 type veth peer name down0 && mount --bind /etc/hosts /etc/hosts")
	namespace.InNamespaces(probe)
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("%s is skipped: this host gives its users no networks of their own (or has no iproute2): %v %s", t.Name(), err, out)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.timeout=30m", "-test.run=^"+t.Name()+"$",
		"-smolvm", theWorld.bin, "-images", *images, fmt.Sprintf("-long=%t", *long))
	cmd.Env = append(os.Environ(), apartMark+"=1")
	cmd.WaitDelay = 10 * time.Second
	namespace.InNamespaces(cmd)
	out, err := cmd.CombinedOutput()
	t.Logf("in namespaces of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatal(err)
	}
	return nil
}

// beApart makes the loopback of a run in namespaces of its own usable.
func beApart() error {
	if os.Getenv(apartMark) == "" {
		return nil
	}
	return ip("link", "set", "lo", "up")
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{there: newNamespace(t)}
	t.Cleanup(func() { _ = unix.Close(n.there) })
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

// newNamespace makes the namespace there.
func newNamespace(t *testing.T) int {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	open := func() int {
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	back := open()
	defer unix.Close(back)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	there := open()
	if err := unix.Setns(back, unix.CLONE_NEWNET); err != nil {
		panic(err) // the thread is lost
	}
	return there
}

// at runs f in the namespace there. Sockets and processes that it makes stay there.
func (n *internet) at(t *testing.T, f func() error) {
	t.Helper()
	if err := n.do(f); err != nil {
		t.Fatal(err)
	}
}

func (n *internet) do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(back)
	if err := unix.Setns(n.there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(back, unix.CLONE_NEWNET); back != nil {
		panic(back) // the thread is lost
	}
	return err
}

// wire lays the cable and gives both ends their addresses and routes.
func (n *internet) wire(t *testing.T) {
	t.Helper()
	must := func(args ...string) {
		t.Helper()
		if err := ip(args...); err != nil {
			t.Fatal(err)
		}
	}
	must("link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.there))
	n.at(t, func() error {
		err := errors.Join(ip("link", "set", "lo", "up"), ip("addr", "add", there4+"/24", "dev", "down0"),
			ip("addr", "add", there6+"/64", "dev", "down0", "nodad"), ip("link", "set", "down0", "up"),
			ip("route", "add", "10.20.0.0/24", "dev", "down0"), ip("route", "add", "fd00:20::/64", "dev", "down0"))
		for _, a := range append([]string{good4, other4, hidden4, resolver4}, closed4[:11]...) {
			err = errors.Join(err, ip("addr", "add", a+"/32", "dev", "lo"))
		}
		for _, a := range append([]string{good6, resolver6}, closed6[:len(closed6)-1]...) {
			err = errors.Join(err, ip("addr", "add", a+"/128", "dev", "lo", "nodad"))
		}
		return err
	})
	for _, a := range []string{here4 + "/24", herePrivate4 + "/24"} {
		must("addr", "add", a, "dev", "up0")
	}
	for _, a := range []string{here6 + "/64", herePrivate6 + "/64"} {
		must("addr", "add", a, "dev", "up0", "nodad")
	}
	must("link", "set", "up0", "up")
	must("route", "add", "default", "via", there4)
	must("route", "add", "default", "via", there6)
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
