package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
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
	if err := r.check(t.Context(), agent); fault.CodeOf(err) != fault.Build || !strings.Contains(err.Error(), `status 1 and said "2.1.33"`) {
		t.Errorf("a check that failed: %v", err)
	}
}

func TestLockFilesComeBeforeTheSteps(t *testing.T) {
	presets, err := config.Presets(images.Files())
	if err != nil {
		t.Fatal(err)
	}
	codex, _ := preset.Find(presets, "codex")
	recipe := preset.Recipe{Locks: codex.Recipe.Locks, Steps: []preset.Step{{Name: "install", Run: "npm ci"}}}
	var got string
	s := &scripted{answer: func(_ wire.Start, in string) (string, int, error) {
		got += in
		return "", 0, nil
	}}
	if err := newRunner(s, io.Discard).run(t.Context(), recipe); err != nil {
		t.Fatal(err)
	}
	if len(s.ran) != 2 || !strings.Contains(s.ran[0], "cat > '"+recipeEnv["SMOLVM_LOCKS"]+"/codex/package-lock.json'") || s.ran[1] != "root: npm ci" {
		t.Errorf("ran %q", s.ran)
	}
	if want, err := fs.ReadFile(images.Files(), "codex/package-lock.json"); err != nil || got != string(want) {
		t.Errorf("%d bytes of the lock file came in, want %d: %v", len(got), len(want), err)
	}
}

func TestLockFilesRefused(t *testing.T) {
	for code, l := range map[fault.Code]preset.Lock{
		fault.Build: {File: "codex/package-lock.json", SHA256: strings.Repeat("0", 64)},
		fault.Usage: {File: "mine/package-lock.json", SHA256: strings.Repeat("0", 64)},
	} {
		s := &scripted{}
		recipe := preset.Recipe{Locks: []preset.Lock{l}, Steps: []preset.Step{{Name: "install", Run: "npm ci"}}}
		if err := newRunner(s, io.Discard).run(t.Context(), recipe); fault.CodeOf(err) != code || len(s.ran) != 0 {
			t.Errorf("%s: error %v after %q, want %v", l.File, err, s.ran, code)
		}
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
