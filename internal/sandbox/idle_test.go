package sandbox_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

// short is a time without a use that a test can wait for.
const short = 400 * time.Millisecond

func (b *bench) startWith(name string, o sandbox.StartOptions) {
	b.t.Helper()
	o.Timeout = time.Minute
	if _, err := b.m.Start(b.t.Context(), name, o); err != nil {
		b.t.Fatal(err)
	}
}

// remains fails where the sandbox does not run on for several times its time.
func (b *bench) remains(name, why string) {
	b.t.Helper()
	time.Sleep(4 * short)
	if s, err := b.m.Get(name); err != nil || s.State != sandbox.Running {
		b.t.Fatalf("%s: it is %s, %v", why, s.State, err)
	}
}

// rests waits for the end of a sandbox that nobody uses.
func (b *bench) rests(name string) {
	b.t.Helper()
	b.released(name)
	if s := b.wantState(name, sandbox.Stopped); !s.StoppedIdle || s.LastError != "" {
		b.t.Fatalf("stopped: idle %v, error %q", s.StoppedIdle, s.LastError)
	}
}

func TestUnusedSandboxStops(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.startWith("box", sandbox.StartOptions{Idle: short})
	c, err := b.m.Connect(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, feed := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), command("cat"), supervise.Streams{In: in})
		ended <- err
	}()
	b.remains("box", "while a program runs")
	if status, err := c.Status(t.Context()); err != nil || status.Idle == nil || status.Idle.After != short || !status.Idle.Stops.IsZero() {
		t.Errorf("while a program runs its supervisor says %+v, %v", status.Idle, err)
	}
	_ = feed.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	b.rests("box")
	b.startWith("box", sandbox.StartOptions{})
	if s := b.wantState("box", sandbox.Running); s.StoppedIdle {
		t.Error("it runs again and is still said to be stopped unused")
	}
	b.remains("box", "without a time")
	if err := b.m.Stop(t.Context(), "box", time.Minute); err != nil {
		t.Fatal(err)
	}
	if s := b.wantState("box", sandbox.Stopped); s.StoppedIdle {
		t.Error("it was stopped by hand, and is said to be stopped unused")
	}
}

func TestKeptSandboxRunsOn(t *testing.T) {
	b, yes, no := newBench(t), true, false
	b.create("box")
	b.startWith("box", sandbox.StartOptions{Idle: short, Keep: &yes})
	b.remains("box", "with --keep")
	if err := b.m.Stop(t.Context(), "box", time.Minute); err != nil {
		t.Fatal(err)
	}
	b.startWith("box", sandbox.StartOptions{Idle: short})
	b.remains("box", "a later start without a word")
	c, err := b.m.Connect(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if state, err := c.Wake(t.Context(), &no); err != nil || state.Never != "" || state.After != short {
		t.Fatalf("%+v, %v", state, err)
	}
	b.rests("box")
}

func TestServiceKeepsItsSandbox(t *testing.T) {
	b := newBench(t)
	spec := b.spec("box")
	spec.Services = []wire.Service{{Name: "gateway", Run: []string{"true"}}}
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	b.startWith("box", sandbox.StartOptions{Idle: short})
	b.remains("box", "with a service")
}

func TestOpenConnectionKeepsItsSandbox(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.startWith("box", sandbox.StartOptions{Idle: 2 * time.Second})
	f, err := b.m.Forward(t.Context(), "box", port.Forward{Guest: 7, Any: true})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", f.Listens())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	b.wantState("box", sandbox.Running)
	_ = conn.Close()
	b.rests("box")
}

// TestRenewedLoginsSurviveShutdown: nor is one there when this computer is shut down,
// which asks the supervisor to end.
func TestRenewedLoginsSurviveShutdown(t *testing.T) {
	b, user := newBench(t), t.TempDir()
	path := filepath.Join(user, ".login")
	if err := os.WriteFile(path, []byte("old token"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.create("box")
	b.startWith("box", sandbox.StartOptions{LoginHome: user, Credentials: &wire.Credentials{
		Logins: []wire.LoginFile{{Path: ".login", Content: []byte("old token")}},
	}})
	if err := syscall.Kill(b.wantState("box", sandbox.Running).Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.released("box")
	if got, err := os.ReadFile(path); string(got) != "new token" || err != nil {
		t.Errorf("the login is %q, %v", got, err)
	}
	if s := b.wantState("box", sandbox.Stopped); s.LastError != "" || s.StoppedIdle {
		t.Errorf("stopped: idle %v, error %q", s.StoppedIdle, s.LastError)
	}
}

// TestRenewedLoginsSurviveRest: no command is there when an unused sandbox stops,
// so its supervisor saves what the agent renewed, where the user said so.
func TestRenewedLoginsSurviveRest(t *testing.T) {
	for _, saves := range []bool{true, false} {
		b, user := newBench(t), t.TempDir()
		path := filepath.Join(user, ".login")
		if err := os.WriteFile(path, []byte("old token"), 0o600); err != nil {
			t.Fatal(err)
		}
		o := sandbox.StartOptions{Idle: short, Credentials: &wire.Credentials{
			Logins: []wire.LoginFile{{Path: ".login", Content: []byte("old token")}},
		}}
		want := "old token"
		if saves {
			o.LoginHome, want = user, "new token"
		}
		b.create("box")
		b.startWith("box", o)
		b.rests("box")
		if got, err := os.ReadFile(path); string(got) != want || err != nil {
			t.Errorf("saved %v: the login is %q, %v", saves, got, err)
		}
	}
}
