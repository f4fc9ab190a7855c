package sandbox_test

import (
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// echo talks to a forward that leads to the guest's echo.
func echo(address string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "hello")
	_ = conn.(*net.TCPConn).CloseWrite()
	said, err := io.ReadAll(conn)
	return string(said), err
}

func (b *bench) wantEcho(address string) {
	b.t.Helper()
	if said, err := echo(address); err != nil || said != "hello" {
		b.t.Errorf("through %s: %q, %v", address, said, err)
	}
}

func TestForwardsLiveAndAcrossRestarts(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.start("box")
	live, err := b.m.Forward(t.Context(), "box", port.Forward{Guest: 7, Any: true})
	if err != nil || live.Host == 0 {
		t.Fatalf("%+v, %v", live, err)
	}
	b.wantEcho(live.Listens())
	nobody, err := b.m.Forward(t.Context(), "box", port.Forward{Guest: 8, Any: true})
	if err != nil {
		t.Fatal(err)
	}
	if said, err := echo(nobody.Listens()); err == nil {
		t.Errorf("where nobody listens: %q without an error", said)
	}
	report, err := b.m.Ports(t.Context(), "box", true)
	if err != nil || len(report.Forwards) != 2 || len(report.Listening) != 1 || report.Listening[0].Program != "echo" {
		t.Errorf("%+v, %v", report, err)
	}
	if err := b.m.Unforward(t.Context(), "box", nobody); err != nil {
		t.Error(err)
	}
	if err := b.m.Stop(t.Context(), "box", time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := echo(live.Listens()); err == nil {
		t.Error("a stopped sandbox has an open port")
	}
	later, err := b.m.Forward(t.Context(), "box", port.Forward{Guest: 7, Host: 0, Any: true})
	if err != nil || later.Host != 0 {
		t.Errorf("while it is stopped: %+v, %v", later, err)
	}
	b.start("box")
	b.wantEcho(live.Listens())
	r := b.wantState("box", sandbox.Running)
	if len(r.Forwards) != 2 || r.Forwards[0] != live || r.Forwards[1].Host == 0 {
		t.Fatalf("the record has %+v", r.Forwards)
	}
	b.wantEcho(r.Forwards[1].Listens())
}

// TestTakenAtStart: a port that was asked for and is taken fails the first start;
// a later one goes on without it, says so, and forwards it once it is free.
func TestTakenAtStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBench(t)
	spec := b.spec("box")
	taken := port.Forward{Host: l.Addr().(*net.TCPAddr).Port, Guest: 7}
	spec.Forwards = []port.Forward{taken}
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	_, err = b.m.Start(t.Context(), "box", sandbox.StartOptions{Timeout: time.Minute})
	if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "is taken by") {
		t.Errorf("first start: %v", err)
	}
	if names, _ := b.m.Names(); len(names) > 0 {
		t.Errorf("left %v", names)
	}
	b.create("box")
	b.start("box")
	if _, err := b.m.Forward(t.Context(), "box", taken); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("while it runs: %v", err)
	}
	_ = b.m.Stop(t.Context(), "box", time.Minute)
	if _, err := b.m.Forward(t.Context(), "box", taken); err != nil {
		t.Fatal(err)
	}
	b.start("box")
	report, err := b.m.Ports(t.Context(), "box", false)
	if err != nil || len(report.Forwards) != 1 || !strings.Contains(report.Forwards[0].Failed, "is taken") {
		t.Errorf("%+v, %v", report, err)
	}
	_ = l.Close()
	if _, err := b.m.Forward(t.Context(), "box", taken); err != nil {
		t.Fatal(err)
	}
	b.wantEcho(taken.Listens())
	if report, _ = b.m.Ports(t.Context(), "box", false); len(report.Forwards) != 1 || report.Forwards[0].Failed != "" {
		t.Errorf("%+v", report)
	}
}

// TestPreferredPortComesBack: a forward whose port was taken at a start gets another
// for the time being, and its own again once it is free.
func TestPreferredPortComesBack(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.start("box")
	hold := func(at string) net.Listener {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	l := hold("127.0.0.1:0")
	own := port.Forward{Host: l.Addr().(*net.TCPAddr).Port, Guest: 7, Any: true}
	again := func() port.Forward {
		t.Helper()
		if err := b.m.Stop(t.Context(), "box", time.Minute); err != nil {
			t.Fatal(err)
		}
		b.start("box")
		r := b.wantState("box", sandbox.Running)
		if len(r.Forwards) != 1 {
			t.Fatalf("the record has %+v", r.Forwards)
		}
		return r.Forwards[0]
	}
	other, err := b.m.Forward(t.Context(), "box", own)
	if err != nil || other.Host == own.Host {
		t.Fatalf("where it is taken: %+v, %v", other, err)
	}
	if twice, err := b.m.Forward(t.Context(), "box", own); err != nil || twice != other {
		t.Errorf("asked for twice: %+v, %v; it has %+v", twice, err, other)
	}
	if got := again(); got != other {
		t.Errorf("still taken: %+v, it had %+v", got, other)
	}
	insists := own
	insists.Any = false
	if got, err := b.m.Forward(t.Context(), "box", insists); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("no other will do: %+v, %v", got, err)
	}
	b.wantEcho(other.Listens())
	_ = l.Close()
	if got, err := b.m.Forward(t.Context(), "box", own); err != nil || got != own {
		t.Errorf("free and asked for: %+v, %v", got, err)
	}
	b.wantEcho(own.Listens())
	if _, err := echo(other.Listens()); err == nil {
		t.Error("what stood in for it is still open")
	}
	_ = b.m.Stop(t.Context(), "box", time.Minute)
	l = hold(own.Listens())
	b.start("box")
	if got := again(); got == own {
		t.Errorf("taken at a start: %+v", got)
	}
	_ = b.m.Stop(t.Context(), "box", time.Minute)
	if _, err := b.m.Forward(t.Context(), "box", own); err != nil {
		t.Error(err)
	}
	_ = l.Close()
	b.start("box")
	if got := again(); got != own {
		t.Errorf("free at a start: %+v, want %+v", got, own)
	}
	if r := b.wantState("box", sandbox.Running); len(r.Displaced) > 0 {
		t.Errorf("the record has %+v", r.Displaced)
	}
	_ = b.m.Stop(t.Context(), "box", time.Minute)
	l = hold(own.Listens())
	b.start("box")
	_ = b.m.Stop(t.Context(), "box", time.Minute)
	if _, err := b.m.Forward(t.Context(), "box", insists); err != nil {
		t.Error(err)
	}
	_ = l.Close()
	b.start("box")
	if got := again(); got != insists {
		t.Errorf("insisted on while it was stopped: %+v", got)
	}
}

// TestTwoSandboxesWantOnePort: the second is told which sandbox has it.
func TestTwoSandboxesWantOnePort(t *testing.T) {
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		t.Skip("only Linux tells who listens")
	}
	b := newBench(t)
	b.create("one")
	b.create("two")
	b.start("one")
	b.start("two")
	f, err := b.m.Forward(t.Context(), "one", port.Forward{Guest: 7, Any: true})
	if err != nil {
		t.Fatal(err)
	}
	f.Any = false
	if _, err := b.m.Forward(t.Context(), "two", f); err == nil || !strings.Contains(err.Error(), "taken by sandbox one") {
		t.Errorf("%v", err)
	}
}
