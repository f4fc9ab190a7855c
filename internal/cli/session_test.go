package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

func at(seconds int) int64 { return fakeTime.Add(time.Duration(seconds) * time.Second).UnixNano() }

// sessions of a sandbox: which are there, and which one is meant.
func TestWhichSessionIsMeant(t *testing.T) {
	nine := 9
	left := wire.KeptSession{Name: "left", Used: at(-50)}
	older := wire.KeptSession{Name: "older", Used: at(-90)}
	watched := wire.KeptSession{Name: "watched", Used: at(-1), Clients: 1}
	ended := wire.KeptSession{Name: "ended", Used: at(-2), Status: &nine}
	for _, c := range []struct {
		line string
		all  []wire.KeptSession
		want string // session= of what is run
		says string
	}{
		{"attach box", nil, "+", ""},
		{"attach box", []wire.KeptSession{older, left, watched, ended}, "left", ""},
		{"attach box", []wire.KeptSession{watched, ended}, "ended", ""},
		{"attach box", []wire.KeptSession{watched}, "watched", "on another terminal, too"},
		{"attach --session older box", []wire.KeptSession{older, left}, "older", ""},
		{"attach --new box", []wire.KeptSession{left}, "+", ""},
		{"attach --new --session mine box", []wire.KeptSession{left}, "mine+", ""},
		{"attach box -- -p x", []wire.KeptSession{left}, "+", ""},
		{"start box", []wire.KeptSession{older, left, ended}, "left", ""},
		{"start box", []wire.KeptSession{watched, ended}, "+", "smolvm attach --session ended box"},
		{"claude start", []wire.KeptSession{left}, "left", ""},
		{"claude start -- -p x", []wire.KeptSession{left}, "+", ""},
	} {
		w := onTerminal(t, "/src/app")
		w.belongs("box", sandbox.Running, "/src/app", fakeTime)
		w.sessions = map[string][]wire.KeptSession{"box": c.all}
		status := w.app.Main(strings.Fields(c.line))
		_, got, _ := strings.Cut(strings.Join(w.log, " "), "tty=true session=")
		if status != 0 || got != c.want || !strings.Contains(w.errs.String(), c.says) {
			t.Errorf("%s with %+v: status %d, session %q, want %q; said %q", c.line, c.all, status, got, c.want, &w.errs)
		}
	}
}

func TestAttachWithoutAName(t *testing.T) {
	for _, c := range []struct {
		boxes  map[string]string // directory of each; those named off are stopped
		want   string            // which one, or what is said
		status int
	}{
		{map[string]string{"a": "/src/app", "b": "/src/lib"}, "exec a ", 0},
		{map[string]string{"b": "/src/lib"}, "exec b ", 0},
		{map[string]string{"b": "/src/lib", "off": "/src/app"}, "Start it: smolvm start off", 125},
		{map[string]string{"b": "/src/lib", "c": "/src/c"}, "Name one: b, c", 125},
		{map[string]string{"off": "/src/lib"}, "no sandbox is running", 125},
	} {
		w := onTerminal(t, "/src/app")
		for name, directory := range c.boxes {
			state := sandbox.Running
			if name == "off" {
				state = sandbox.Stopped
			}
			w.belongs(name, state, directory, fakeTime)
		}
		status := w.app.Main([]string{"attach"})
		if got := strings.Join(w.log, " ") + w.errs.String(); status != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%v: status %d, %q; want %d, %q", c.boxes, status, got, c.status, c.want)
		}
	}
}

func TestSessionFlagsAreNotIgnored(t *testing.T) {
	for line, terminal := range map[string]bool{
		"attach --session 1 box": false, "attach --new box": false, "attach --detach-keys a box": false,
		"attach --session 1 --json box": true, "attach --session a/b box": true, "attach --detach-keys nonsense box": true,
		"attach --session 1 box -- -p x": true, "attach --session 7 box": true, "claude start --detach-keys a": false,
		"attach --new --session 1 box": true, "claude start --detach-keys a --no-attach": true, "start --detach-keys nonsense box": true, "attach a b": true,
	} {
		w := newWorld(t)
		w.app.Streams.InTTY, w.app.Streams.OutTTY = terminal, terminal
		w.add("box", sandbox.Running)
		w.sessions = map[string][]wire.KeptSession{"box": {{Name: "1"}}}
		if status := w.app.Main(strings.Fields(line)); status != 125 || len(w.log) > 0 {
			t.Errorf("%s: status %d, did %v, said %q", line, status, w.log, &w.errs)
		}
	}
}

func TestNameOfANewSessionIsTaken(t *testing.T) {
	w := onTerminal(t, "/src/app")
	w.add("box", sandbox.Running)
	w.sessions = map[string][]wire.KeptSession{"box": {{Name: "1"}}}
	w.run(t, "attach --new --session 1 box", want{status: 125, errs: "smolvm attach --session 1 box"})
}

// Whoever leaves a sandbox that has another name by then is told that one.
func TestDetachFromARenamedSandbox(t *testing.T) {
	w := onTerminal(t, "/src/app")
	w.add("box", sandbox.Running)
	leavesIt(t, w, "")
	leave := w.programCtx
	w.programCtx = func(ctx context.Context, c supervise.Command, streams supervise.Streams) (int, error) {
		if err := w.Rename(ctx, "box", "crate"); err != nil {
			t.Error(err)
		}
		return leave(ctx, c, streams)
	}
	if status := w.app.Main([]string{"attach", "box"}); status != 0 || !strings.Contains(w.errs.String(), "smolvm attach crate\n") {
		t.Errorf("status %d, said %q", status, &w.errs)
	}
}

func TestRmDeletesARenamedSandbox(t *testing.T) {
	w := onTerminal(t, "/src/app")
	w.programCtx = func(ctx context.Context, _ supervise.Command, _ supervise.Streams) (int, error) {
		return 0, w.Rename(ctx, "claude-code", "crate")
	}
	if status := w.app.Main([]string{"claude", "start", "--rm", "--no-mount"}); status != 0 || len(w.boxes) != 0 {
		t.Errorf("status %d, left %v, said %q", status, w.boxes, &w.errs)
	}
}

// A sandbox whose supervisor is of an earlier version runs the agent as that did.
func TestEarlierSupervisorsKeepNoSessions(t *testing.T) {
	w := onTerminal(t, "/src/app")
	w.add("box", sandbox.Running)
	w.old = true
	w.run(t, "attach box", want{log: []string{"exec box claude --yolo user= dir= tty=true"}})
	w = onTerminal(t, "/src/app")
	w.add("box", sandbox.Running)
	w.old = true
	w.run(t, "attach --session 1 box", want{status: 125, errs: "was started by an earlier smolvm"})
}

// leavesIt types the detach keys at an agent that has drawn a screen.
func leavesIt(t *testing.T, w *fakeWorld, drawn string) {
	t.Helper()
	in, typing := io.Pipe()
	w.app.Streams.In = in
	t.Cleanup(func() { typing.Close() })
	w.programCtx = func(ctx context.Context, _ supervise.Command, streams supervise.Streams) (int, error) {
		_, _ = io.WriteString(streams.Out, drawn)
		go func() { _, _ = typing.Write([]byte("x\x10\x11")) }()
		heard, err := io.ReadAll(streams.In)
		<-ctx.Done()
		if string(heard) != "x" || err != nil {
			t.Errorf("the agent heard %q, %v", heard, err)
		}
		return 0, fmt.Errorf("run: %w", context.Cause(ctx))
	}
}

func TestDetach(t *testing.T) {
	w := onTerminal(t, "/src/app")
	w.add("box", sandbox.Running)
	leavesIt(t, w, "\x1b[?1049h\x1b[?25l\x1b[>1u")
	w.run(t, "attach box", want{
		log: []string{"exec box claude --yolo user= dir= tty=true session=+"},
		out: "\x1b[?1049h\x1b[?25l\x1b[>1u" + "\x1b[?25h\x1b[<1u\x1b[?1049l\r\n", errs: "Detached: the agent goes on. To get it back: smolvm attach box",
	})
}

func TestDetachKeepsWhatRmWouldDelete(t *testing.T) {
	w := onTerminal(t, "/src/app")
	leavesIt(t, w, "")
	if status := w.app.Main([]string{"claude", "start", "--rm", "--no-mount"}); status != 0 || len(w.boxes) != 1 {
		t.Errorf("status %d, left %v", status, w.boxes)
	}
	if said := w.errs.String(); !strings.Contains(said, "smolvm delete claude-code") {
		t.Errorf("said %q", said)
	}
}

func TestListAndInfoShowSessions(t *testing.T) {
	nine := 9
	sessions := map[string][]wire.KeptSession{"box": {
		{Name: "1", Command: "claude --yolo", Title: "fixing it", Started: at(-7200), Used: at(-3600)},
		{Name: "2", Command: "claude -p x", Started: at(-60), Used: at(-30), Clients: 2},
		{Name: "old", Command: "claude", Started: at(-60), Used: at(-600), Status: &nine},
	}}
	w := newWorld(t)
	w.add("box", sandbox.Running)
	w.sessions = sessions
	w.app.Main([]string{"info", "box"})
	for _, line := range []string{
		"session   1: claude --yolo (fixing it), left 1 hour ago", "session   2: claude -p x, on 2 terminals",
		"session   old: claude, ended with status 9 10 minutes ago, not looked at since",
	} {
		if !strings.Contains(w.out.String(), line+"\n") {
			t.Errorf("info lacks %q:\n%s", line, &w.out)
		}
	}
	w.out.Reset()
	w.app.Main([]string{"list"})
	if lines := strings.Split(w.out.String(), "\n"); len(lines) < 2 || strings.Fields(lines[0])[2] != "SESSIONS" || strings.Fields(lines[1])[2] != "3" {
		t.Errorf("list shows\n%s", &w.out)
	}
	views := sessionsOf(sessions["box"])
	if diff := cmp.Diff(sessionView{
		Name: "2", Command: "claude -p x", Started: fakeTime.Add(-time.Minute), Used: fakeTime.Add(-30 * time.Second), Watchers: 2,
	}, views[1]); diff != "" {
		t.Error(diff)
	}
}
