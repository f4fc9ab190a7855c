package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/wire"
)

// scripted is a Session that answers from a function and remembers what ran.
type scripted struct {
	answer func(start wire.Start, in string) (out string, status int, err error)
	ran    []string
}

func (s *scripted) Exec(_ context.Context, start wire.Start, in io.Reader, out, _ io.Writer) (int, error) {
	var input []byte
	if in != nil {
		input, _ = io.ReadAll(in)
	}
	s.ran = append(s.ran, start.User+": "+start.Argv[len(start.Argv)-1])
	if s.answer == nil {
		return 0, nil
	}
	text, status, err := s.answer(start, string(input))
	fmt.Fprint(out, text)
	return status, err
}

func newRunner(s Session, log io.Writer) runner {
	return runner{session: s, sink: event.Discard{}, now: time.Now, log: log, name: "demo"}
}

func TestFailingStepShowsItsLastLines(t *testing.T) {
	var log bytes.Buffer
	r := newRunner(&scripted{answer: func(wire.Start, string) (string, int, error) {
		return "fetching\nE404 no such version\n", 1, nil
	}}, &log)
	err := r.run(t.Context(), preset.Recipe{Steps: []preset.Step{{Name: "install", Run: "false"}, {Name: "never", Run: "true"}}})
	if fault.CodeOf(err) != fault.Build || !strings.Contains(err.Error(), "E404") || !strings.Contains(err.Error(), "install") {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(log.String(), "fetching") {
		t.Errorf("log %q", log.String())
	}
}

func TestLostSandboxIsNotARecipeFailure(t *testing.T) {
	lost := errors.New("the machine ended")
	r := newRunner(&scripted{answer: func(wire.Start, string) (string, int, error) { return "", 0, lost }}, io.Discard)
	if err := r.prepare(t.Context()); !errors.Is(err, lost) || fault.CodeOf(err) == fault.Build {
		t.Errorf("error %v", err)
	}
}

func TestCheckAssertsTheVersion(t *testing.T) {
	agent := preset.Agent{Name: "Demo", Version: "2.1.33", Check: []string{"demo", "--version"}}
	for out, ok := range map[string]bool{
		"2.1.33 (Demo)\n": true, "demo/2.1.33 linux\n": true, "v2.1.33": true,
		"2.1.330\n": false, "12.1.33\n": false, "2.1.33.1": false, "": false, "2x1x33": false,
	} {
		r := newRunner(&scripted{answer: func(wire.Start, string) (string, int, error) { return out, 0, nil }}, io.Discard)
		if err := r.check(t.Context(), agent); (err == nil) != ok {
			t.Errorf("%q: error %v", out, err)
		}
	}
	r := newRunner(&scripted{answer: func(wire.Start, string) (string, int, error) { return "2.1.33", 1, nil }}, io.Discard)
	if err := r.check(t.Context(), agent); fault.CodeOf(err) != fault.Build {
		t.Errorf("a check that failed: %v", err)
	}
}

func TestParentsOfFilesInTheHome(t *testing.T) {
	for path, want := range map[string]string{
		"/home/agent/.a/b/c.json":    "'/home/agent/.a' '/home/agent/.a/b'",
		"/home/agent/.npmrc":         "'/home/agent'",
		"/etc/sudoers.d/agent":       "'/etc/sudoers.d'",
		"/home/agent/it's/a file.md": `'/home/agent/it'\''s'`,
	} {
		if got := strings.Join(missingParents(path), " "); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestCleanRemovesOnlyWhatNoLayerHolds runs the real script on a copy of a root.
func TestCleanRemovesOnlyWhatNoLayerHolds(t *testing.T) {
	root := t.TempDir()
	gone := []string{"tmp/x", "tmp/.y", "etc/machine-id", "etc/ssh/ssh_host_ed25519_key", "var/lib/apt/lists/index", "home/agent/.npm/_logs/a", "root/.bash_history", "var/log/dpkg.log", "etc/passwd-"}
	kept := []string{"etc/passwd", "home/agent/.npmrc", "home/agent/.claude.json", "var/lib/dpkg/status", "etc/ssh/ssh_config", "usr/bin/node"}
	for _, name := range append(append([]string{}, gone...), kept...) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := strings.NewReplacer(" /", " "+root+"/").Replace(cleanScript)
	if out, err := exec.Command("sh", "-eu", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range gone {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range kept {
		if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
			t.Errorf("%s is gone", name)
		}
	}
}
