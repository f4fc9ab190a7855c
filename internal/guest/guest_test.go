//go:build linux

package guest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/wire"
)

// ports is a link port that a host can open again and again.
type ports struct {
	hosts chan net.Conn
	gone  chan struct{}
}

func (p *ports) open() (link.Port, error) {
	guest, host := net.Pipe()
	select {
	case p.hosts <- host:
		return guest, nil
	case <-p.gone:
		return nil, errors.New("port is gone")
	}
}

// kept is an uplink that is kept open until the test ends.
func kept(t *testing.T) (*uplink, *ports, chan order) {
	t.Helper()
	orders := make(chan order, 1)
	u := newUplink(rand.Reader, orders)
	p := &ports{hosts: make(chan net.Conn, 1), gone: make(chan struct{})}
	u.reopen = p.open
	port, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = u.keep(ctx, port) })
	t.Cleanup(func() { cancel(); close(p.gone); group.Wait() })
	return u, p, orders
}

func (p *ports) host(t *testing.T) *guestlink.Link {
	t.Helper()
	l, err := guestlink.Open(t.Context(), <-p.hosts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestEverySessionIsToldTheLastMessage(t *testing.T) {
	u, p, _ := kept(t)
	u.publish(wire.Message{Type: wire.Working, Text: "before the host"})
	first := p.host(t)
	if got := <-first.Messages(); got.Text != "before the host" {
		t.Errorf("got %+v", got)
	}
	u.publish(wire.Message{Type: wire.Ready})
	if got := <-first.Messages(); got.Type != wire.Ready {
		t.Errorf("got %+v", got)
	}
	first.Close()
	second := p.host(t)
	if got := <-second.Messages(); got.Type != wire.Ready {
		t.Errorf("the second session: got %+v", got)
	}
}

// upper serves streams by sending back what they say in upper case.
type upper struct{}

func (upper) Serve(_ context.Context, conn net.Conn) error {
	buf := make([]byte, 5)
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	_, err := conn.Write(bytes.ToUpper(buf))
	return err
}

func TestStreamsWaitForTheServer(t *testing.T) {
	u, p, _ := kept(t)
	host := p.host(t)
	other, err := host.Dial(t.Context(), "unheard-of")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := host.Dial(t.Context(), wire.StreamSSH)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stream, "hello"); err != nil {
		t.Fatal(err)
	}
	u.serve(servers{wire.StreamSSH: upper{}})
	if got, err := io.ReadAll(stream); err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a stream that nobody serves: %v", err)
	}
}

// TestNobodyGetsInWhileHeld goes as a snapshot does: streams of the session in which
// the guest was held, and of the next, wait until it is released.
func TestNobodyGetsInWhileHeld(t *testing.T) {
	u, p, _ := kept(t)
	u.serve(servers{wire.StreamSSH: upper{}})
	first := p.host(t)
	u.hold()
	u.hold() // a snapshot that failed, and the next
	early, err := first.Dial(t.Context(), wire.StreamSSH)
	if err != nil {
		t.Fatal(err)
	}
	_ = early.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := io.WriteString(early, "hello"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(early); err == nil || len(got) > 0 {
		t.Errorf("a held guest said %q, %v", got, err)
	}
	first.Close()
	second := p.host(t)
	stream, err := second.Dial(t.Context(), wire.StreamSSH)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stream, "hello"); err != nil {
		t.Fatal(err)
	}
	u.release()
	u.release()
	if got, err := io.ReadAll(stream); err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHoldAndRenewAreAnswered(t *testing.T) {
	u, p, _ := kept(t)
	u.snapshots = func(m wire.Message) {
		u.say(wire.Message{Type: wire.Renewed, Text: string(m.Type) + " " + m.Identity.Hostname})
	}
	host := p.host(t)
	for _, kind := range []wire.MessageType{wire.Hold, wire.Renew} {
		if err := host.Send(wire.Message{Type: kind, Identity: &wire.Identity{Hostname: "box"}}); err != nil {
			t.Fatal(err)
		}
		if got := <-host.Messages(); got.Text != string(kind)+" box" {
			t.Errorf("got %+v", got)
		}
	}
}

// TestReseed needs the right to change the kernel's random numbers.
func TestReseed(t *testing.T) {
	entropy := make([]byte, wire.LeastEntropy)
	_, _ = rand.Read(entropy) // never fails
	err := reseed("/dev/urandom", entropy)
	if errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Error(err)
	}
	if err := reseed("/dev/urandom", make([]byte, 1<<10)); err == nil {
		t.Error("more bytes than there is room for were taken")
	}
	if err := reseed("/dev/null", entropy); err == nil {
		t.Error("a device without random numbers was reseeded")
	}
}

func TestOrdersOfTheHost(t *testing.T) {
	_, p, orders := kept(t)
	host := p.host(t)
	for _, message := range []wire.Message{{Type: "unheard-of"}, {Type: wire.PowerOff}, {Type: wire.PowerOff}} {
		if err := host.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-orders; got != powerOff {
		t.Errorf("got %v", got)
	}
}

func TestDeliver(t *testing.T) {
	u, p, _ := kept(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	u.deliver(ctx, wire.Message{Type: wire.Failed}) // nobody there: bounded
	host := p.host(t)
	if got := <-host.Messages(); got.Type != wire.Failed {
		t.Errorf("got %+v", got)
	}
	u.deliver(t.Context(), wire.Message{Type: wire.Packed, Bytes: 4096})
	if got := <-host.Messages(); got.Bytes != 4096 {
		t.Errorf("got %+v", got)
	}
}

func TestSteps(t *testing.T) {
	now := time.Duration(0)
	s := newSteps(func() time.Duration { now += 1500 * time.Microsecond; return now })
	s.mark("kernel")
	s.mark("root")
	report := s.report("v1")
	if diff := cmp.Diff(map[string]int64{"kernel": 1, "root": 3}, report.StepsMS); diff != "" || report.UptimeMS != 4 || report.Agent != "v1" || report.Kernel == "" {
		t.Errorf("%+v (-want +got)\n%s", report, diff)
	}
}

func TestConsole(t *testing.T) {
	var out bytes.Buffer
	(&console{&out}).printf("ready after %d ms", 7)
	if got := out.String(); !strings.HasSuffix(got, "] smolvm-guest: ready after 7 ms\r\n") || got[0] != '[' {
		t.Errorf("got %q", got)
	}
}

func TestOrderOfSignals(t *testing.T) {
	for sig, want := range map[os.Signal]order{
		syscall.SIGTERM: powerOff, syscall.SIGINT: powerOff, syscall.SIGUSR2: powerOff, signalReboot: reboot,
	} {
		if got := orderOf(sig); got != want {
			t.Errorf("%v: got %v, want %v", sig, got, want)
		}
	}
}

func TestGiveNeverBlocks(t *testing.T) {
	orders := make(chan order, 1)
	give(orders, reboot)
	give(orders, powerOff)
	if got := <-orders; got != reboot {
		t.Errorf("got %v", got)
	}
}

// testAgent is an agent that can start programs.
func testAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{reaper: reap.New()}
	ctx, cancel := context.WithCancel(context.Background())
	a.group.Go(func() { a.reaper.Run(ctx) })
	t.Cleanup(func() { cancel(); a.group.Wait() })
	return a
}

func TestRunIn(t *testing.T) {
	a := testAgent(t)
	if err := a.runIn(t.Context(), "", nil, []string{"sh", "-c", "exit 0"}); err != nil {
		t.Error(err)
	}
	err := a.runIn(t.Context(), "", []string{"WHY=disk full"}, []string{"sh", "-c", `echo "$WHY" >&2; exit 3`})
	if err == nil || err.Error() != "sh ended with status 3: disk full" {
		t.Errorf("got %v", err)
	}
	if err := a.runIn(t.Context(), "", nil, []string{"sh", "-c", "head -c 100000 /dev/zero; exit 1"}); err == nil || len(err.Error()) > 2*maxOutput {
		t.Error("output is not bounded")
	}
	if err := a.runIn(t.Context(), "", nil, []string{"nonesuch"}); err == nil {
		t.Error("ran a program that is not there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := a.runIn(ctx, "", nil, []string{"sleep", "60"}); err == nil {
		t.Error("not ended with its context")
	}
}

func TestFindInAnotherRoot(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(root, "usr/bin/mkfs.ext4"), 0o755), // a folder of that name
		os.MkdirAll(filepath.Join(root, "sbin"), 0o755),
		os.WriteFile(filepath.Join(root, "sbin/mkfs.ext4"), nil, 0o755),
	); err != nil {
		t.Fatal(err)
	}
	if got, err := find(root, "mkfs.ext4"); err != nil || got != "/sbin/mkfs.ext4" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestLayerEnv(t *testing.T) {
	a := &agent{}
	a.options.Mode, a.options.Epoch = wire.ModeBuild, time.Unix(1700000000, 0)
	if diff := cmp.Diff(map[string]string{"SOURCE_DATE_EPOCH": "1700000000"}, a.layerEnv()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	a.options.Mode = wire.ModeRun
	if got := a.layerEnv(); len(got) != 0 {
		t.Errorf("in a sandbox: %v", got)
	}
}

func TestBadKeysInTheSeed(t *testing.T) {
	a := &agent{}
	if _, err := parseKeys(a.seed); err == nil {
		t.Error("no host key was accepted")
	}
	if err := a.pack(t.Context()); err == nil {
		t.Error("packed without drives")
	}
}
