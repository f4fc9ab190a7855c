package cage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// tapUser is the word by which the test's own binary is the program that has a tap.
const tapUser = "tap-user"

// useTap opens the tap that it was given, and tries what it may not. Then it sends one
// frame.
func useTap() int {
	tap, err := openTap("tap0")
	fmt.Println("its own tap:", err)
	_, err = openTap("tap1")
	fmt.Println("another tap:", err)
	_, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	fmt.Println("a packet socket:", err)
	all, err := net.Interfaces()
	for _, one := range all {
		addresses, _ := one.Addrs()
		fmt.Println("interface:", one.Name, one.MTU, addresses, err)
	}
	frame := append(make([]byte, 10), []byte("to-me!as-me!..a frame of the cage, long enough to be one")...)
	_, err = unix.Write(tap, frame)
	fmt.Println("a frame:", err)
	return 0
}

func openTap(name string) (int, error) {
	fd, err := unix.Open(TapDevice, unix.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	request, _ := unix.NewIfreq(name)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

// TestTap: a program in a cage has its tap and no way to another card; the other end
// comes out of the cage, and hears it.
func TestTap(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runner := process.New(process.Options{Environ: os.Environ(), Self: self})
	if err := TryTap(t.Context(), runner); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd, err := Command(ctx, runner, Plan{
		Root: t.TempDir(), Program: "/program", Args: []string{tapUser}, Tap: &Tap{Name: "tap0", MTU: 9000},
		Binds: []Bind{{From: self, To: "/program", Program: true}, {From: TapDevice, To: TapDevice, Device: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	handout, err := NewHandout()
	if err != nil {
		t.Fatal(err)
	}
	handout.Give(cmd)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	child, err := process.StartBound(cmd)
	handout.Started()
	_ = cmd.ExtraFiles[0].Close()
	if err != nil {
		t.Fatal(err)
	}
	far, err := handout.Take(ctx)
	if err != nil {
		t.Fatal(errors.Join(err, child.Wait()), &out)
	}
	defer far.Close()
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
	want := "its own tap: <nil>\nanother tap: operation not permitted\na packet socket: operation not permitted\n"
	if !strings.HasPrefix(out.String(), want) || !strings.Contains(out.String(), "interface: tap0 9000 [] <nil>") || !strings.Contains(out.String(), "a frame: <nil>") {
		t.Errorf("said:\n%s", &out)
	}
	_ = far.SetReadDeadline(time.Now().Add(10 * time.Second))
	frame := make([]byte, 200)
	n, err := far.Read(frame)
	if err != nil || !bytes.Contains(frame[:n], []byte("a frame of the cage")) {
		t.Errorf("the other end hears %q, %v", frame[:n], err)
	}
}

// TestTakeFromNobody: a stage that ends without giving the card is an error, not a
// hang.
func TestTakeFromNobody(t *testing.T) {
	handout, err := NewHandout()
	if err != nil {
		t.Fatal(err)
	}
	defer handout.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := handout.Take(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a stage that gives nothing: %v", err)
	}
	if handout, err = NewHandout(); err != nil {
		t.Fatal(err)
	}
	handout.Started()
	if _, err := handout.Take(t.Context()); err == nil {
		t.Error("nobody gave a card")
	}
	handout.Close()
}

// TestForbiddenTap: what keeps a tap from the user has its own fix.
func TestForbiddenTap(t *testing.T) {
	for cause, want := range map[string]string{
		"cage: make the network card: open /dev/net/tun: permission denied":         "chmod 0666 /dev/net/tun",
		"cage: make the network card: open /dev/net/tun: no such file or directory": "modprobe tun",
		"cage: make the network card: open /dev/net/tun: no such device":            "modprobe tun",
		"cage: build the root: permission denied":                                   "seccomp",
	} {
		if hint := fault.HintOf(Forbidden(os.DirFS(t.TempDir()), "/usr/bin/smolvm", errors.New(cause))); !strings.Contains(hint, want) {
			t.Errorf("%s: %q", cause, hint)
		}
	}
}
