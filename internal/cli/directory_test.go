package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// onTerminal puts a person into a directory.
func onTerminal(t *testing.T, directory string) *fakeWorld {
	t.Helper()
	w := newWorld(t)
	w.app.Directory, w.app.UserHome = directory, "/home/ana"
	w.app.Streams.InTTY, w.app.Streams.OutTTY = true, true
	return w
}

// belongs puts a sandbox into the world that was made in a directory.
func (w *fakeWorld) belongs(name, state, directory string, started time.Time) {
	w.add(name, state)
	s := w.boxes[name]
	s.Directory, s.Started, s.Mounts = directory, started, []record.Mount{{Host: directory, Guest: "/workspace"}}
	w.boxes[name] = s
}

// folder makes a folder, named by a path without links.
func folder(t *testing.T, name string) string {
	t.Helper()
	above, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(above, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func withoutMounts(s sandbox.Status) sandbox.Status {
	s.Mounts = nil
	return s
}

func TestDefaultNames(t *testing.T) {
	for _, c := range []struct{ directory, flag, name string }{
		{"/home/ana/src/My Project_2", "", "claude-code-my-project-2"},
		{"/home/ana/src/...x..", "", "claude-code-x"},
		{"/home/ana/src/プロジェクト", "", "claude-code"},
		{"/home/ana", "", "claude-code"},
		{"/", "", "claude-code"},
		{"", "", "claude-code"},
		{"/home/ana/src/app", "--no-mount", "claude-code"},
		{"/home/ana/src/app", "--name=mine", "mine"},
		{"/" + strings.Repeat("long-", 30), "", "claude-code-" + strings.TrimRight(strings.Repeat("long-", 30)[:46], "-")},
	} {
		w := newWorld(t)
		w.app.Directory, w.app.UserHome = c.directory, "/home/ana"
		w.app.Main(strings.Fields("claude start " + c.flag))
		if len(w.created) != 1 || w.created[0].Name != c.name || len(c.name) > 58 {
			t.Errorf("in %s: made %v, want %q; %s", c.directory, w.created, c.name, &w.errs)
			continue
		}
		wanted := c.directory
		if c.flag == "--no-mount" {
			wanted = ""
		}
		if got := w.created[0].Directory; got != wanted {
			t.Errorf("in %s %s: it belongs to %q", c.directory, c.flag, got)
		}
	}
}

func TestStartAgainInADirectory(t *testing.T) {
	earlier, later := fakeTime.Add(-2*time.Hour), fakeTime.Add(-time.Hour)
	for _, c := range []struct {
		line string
		log  []string // nil: a new sandbox is made
	}{
		{"claude start", []string{"start newer 2m0s", "exec newer claude --yolo user= dir= tty=true session=+"}},
		{"claude start -n older", []string{"start older 2m0s", "exec older claude --yolo user= dir= tty=true session=+"}},
		{"claude start --no-attach", []string{"start newer 2m0s"}},
		{"claude start -- -p x", []string{"start newer 2m0s", "exec newer claude --yolo -p x user= dir= tty=true session=+"}},
		{"claude start --cpus 2", []string{"start newer 2m0s", "exec newer claude --yolo user= dir= tty=true session=+"}},
		{"claude start --dry-run", []string{}},
		{"claude start --new", nil},
		{"claude start --rm", nil},
		{"claude start --no-mount", nil},
		{"claude start -n other", nil},
		{"codex start", nil},
	} {
		app := folder(t, "app")
		w := onTerminal(t, app)
		w.rows = append(w.rows, fakeRow("codex"))
		w.belongs("older", sandbox.Stopped, app, earlier)
		w.belongs("newer", sandbox.Stopped, app, later)
		w.belongs("elsewhere", sandbox.Running, "/src/lib", fakeTime)
		w.belongs("wrong", sandbox.Broken, app, fakeTime)
		w.belongs("empty", sandbox.Running, app, fakeTime) // made by a script, which mounts nothing
		w.boxes["empty"] = withoutMounts(w.boxes["empty"])
		status := w.app.Main(strings.Fields(c.line))
		switch {
		case status != 0:
			t.Errorf("%s: status %d: %s", c.line, status, &w.errs)
		case (c.log == nil) != (len(w.created) == 1):
			t.Errorf("%s: made %v", c.line, w.created)
		case c.log != nil && !cmp.Equal(c.log, append([]string{}, w.log...)):
			t.Errorf("%s: %s", c.line, cmp.Diff(c.log, w.log))
		}
	}
}

// TestTwoStartsAtOnce: the one that waited goes on with what the other made, and the
// next need not wait until its agent ends.
func TestTwoStartsAtOnce(t *testing.T) {
	app := folder(t, "app")
	w := onTerminal(t, app)
	w.meanwhile = func() { w.belongs("claude-code-app", sandbox.Running, app, fakeTime) }
	w.run(t, "claude start", want{
		log:  []string{"wake", "exec claude-code-app claude --yolo user= dir= tty=true session=+"},
		errs: "Another smolvm is just starting claude-code in this directory: waiting for it.",
	})
	if len(w.created) > 0 || w.turns != 0 {
		t.Errorf("made %v; %d turns are not given back", w.created, w.turns)
	}
	for _, line := range []string{"claude start --new", "claude start --dry-run", "claude start --rm"} {
		w := onTerminal(t, app)
		w.meanwhile = func() { t.Errorf("%s waits", line) }
		w.app.Main(strings.Fields(line))
	}
	w = onTerminal(t, app)
	w.startErr = errors.New("no")
	if status := w.app.Main([]string{"claude", "start"}); status == 0 || w.turns != 0 {
		t.Errorf("a start that fails: status %d, %d turns are not given back", status, w.turns)
	}
}

func TestTheRunningSandboxComesFirst(t *testing.T) {
	app := folder(t, "app")
	w := onTerminal(t, app)
	w.belongs("running", sandbox.Running, app, fakeTime.Add(-9*time.Hour))
	w.belongs("stopped", sandbox.Stopped, app, fakeTime)
	w.run(t, "claude start", want{
		log: []string{"wake", "exec running claude --yolo user= dir= tty=true session=+"}, errs: "Going on with running of this directory",
	})
	w.app.Streams.InTTY = false // a script makes its own
	w.app.Main([]string{"claude", "start"})
	if len(w.created) != 1 || w.created[0].Name != "claude-code-app" {
		t.Errorf("without a terminal: made %v", w.created)
	}
}

func TestNoFlagIsIgnoredWhenGoingOn(t *testing.T) {
	app := folder(t, "app")
	for _, flag := range []string{"--cpus=1", "--memory=512M", "--disk=1G", "--mount=.:/workspace:ro", "--mount=.:/data"} {
		w := onTerminal(t, app)
		w.belongs("app", sandbox.Running, app, fakeTime)
		name, _, _ := strings.Cut(flag, "=")
		w.run(t, "claude start "+flag, want{status: 125, errs: name + " holds for a new sandbox"})
	}
}

func TestDryRunOfGoingOnIsJSON(t *testing.T) {
	w := onTerminal(t, "/src/app")
	w.belongs("app", sandbox.Stopped, "/src/app", fakeTime)
	if status := w.app.Main(strings.Fields("claude start --dry-run --json")); status != 0 {
		t.Fatalf("status %d: %s", status, &w.errs)
	}
	var got struct {
		OK   bool
		Data struct {
			GoesOnWith string `json:"goes_on_with"`
			Starts     bool
			Sandbox    struct{ Name, State string }
		}
	}
	if err := json.Unmarshal(w.out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, &w.out)
	}
	if d := got.Data; !got.OK || d.GoesOnWith != "app" || !d.Starts || d.Sandbox.State != sandbox.Stopped || len(w.log) != 0 {
		t.Errorf("got %+v; did %v", got, w.log)
	}
}
