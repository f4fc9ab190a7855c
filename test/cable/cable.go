//go:build linux

// Package cable gives a test a network without a way out of it: two network
// namespaces that one cable joins. The test, and what it starts, run in one of them,
// "here"; the other, "there", has the hosts that the test puts into it. Nothing that
// is sent can leave the computer, and nothing of the computer's own network changes.
//
// It needs no root, only user namespaces and the ip command. With the test everything
// of it ends: the kernel removes namespaces that nothing is in.
package cable

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/process"
)

// Addresses of the ends of the cable, of ranges for documentation.
const (
	Here4, Here6   = "198.51.100.2", "2001:db8:1::2"
	There4, There6 = "198.51.100.1", "2001:db8:1::1"
)

// Far is the name of the far end's interface, Near that of the end here.
const (
	Far  = "down0"
	Near = "up0"
)

// mark tells the test binary that it runs in namespaces of its own.
const mark = "SMOLVM_TEST_APART"

// Apart runs the calling test once more in namespaces of its own, as their root, with
// args added to the binary's. It is true in that run. In the first run the test is over
// when it returns: it is skipped where the user gets no namespaces.
func Apart(t *testing.T, args ...string) bool {
	t.Helper()
	if os.Getenv(mark) != "" {
		return true
	}
	probe := exec.Command("sh", "-c", "ip link set lo up && ip link add "+Near+" type veth peer name "+Far+" && mount --bind /etc/hosts /etc/hosts")
	process.InNamespaces(probe)
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("%s is skipped: this host gives its users no networks of their own (or has no iproute2): %v %s", t.Name(), err, out)
	}
	own := []string{"-test.v", "-test.run=^" + t.Name() + "$"}
	if end, ok := t.Deadline(); ok {
		own = append(own, "-test.timeout="+time.Until(end).String())
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append(own, args...)...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.WaitDelay = 10 * time.Second
	process.InNamespaces(cmd)
	out, err := cmd.CombinedOutput()
	t.Logf("in namespaces of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatal(err)
	}
	return false
}

// Up makes the loopback of such a run usable, and does nothing in another.
func Up() error {
	if os.Getenv(mark) == "" {
		return nil
	}
	return IP("link", "set", "lo", "up")
}

// IP runs the ip command.
func IP(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Cable leads from here, where the test runs, to the namespace there.
type Cable struct {
	there int // descriptor of the namespace
}

// Lay makes the namespace there and the cable to it, by which every route of here leads.
func Lay(t *testing.T) *Cable {
	t.Helper()
	c := &Cable{there: newNamespace(t)}
	t.Cleanup(func() { _ = unix.Close(c.there) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(Up())
	must(IP("link", "add", Near, "type", "veth", "peer", "name", Far, "netns", c.Path()))
	must(c.There(func() error {
		return errors.Join(IP("link", "set", "lo", "up"), IP("addr", "add", There4+"/24", "dev", Far),
			IP("addr", "add", There6+"/64", "dev", Far, "nodad"), IP("link", "set", Far, "up"))
	}))
	must(IP("addr", "add", Here4+"/24", "dev", Near))
	must(IP("addr", "add", Here6+"/64", "dev", Near, "nodad"))
	must(IP("link", "set", Near, "up"))
	must(IP("route", "add", "default", "via", There4))
	must(IP("route", "add", "default", "via", There6))
	return c
}

// newNamespace makes a network namespace and gives its descriptor.
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

// Path is the namespace there for programs that this one starts.
func (c *Cable) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.there) }

// There runs f in the namespace there. Sockets and processes that it makes stay there.
func (c *Cable) There(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(back)
	if err := unix.Setns(c.there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(back, unix.CLONE_NEWNET); back != nil {
		panic(back) // the thread is lost
	}
	return err
}

// Host puts hosts there that have these addresses.
func (c *Cable) Host(addresses ...string) error {
	return c.There(func() (err error) {
		for _, a := range addresses {
			if strings.Contains(a, ":") {
				err = errors.Join(err, IP("addr", "add", a+"/128", "dev", "lo", "nodad"))
			} else {
				err = errors.Join(err, IP("addr", "add", a+"/32", "dev", "lo"))
			}
		}
		return err
	})
}
