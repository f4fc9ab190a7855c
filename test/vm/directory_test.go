//go:build vm

package vm_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// startIn runs a start on a terminal in a directory, to the end of the agent.
func (w *world) startIn(t *testing.T, directory, shows string, flags ...string) {
	t.Helper()
	args := append(append([]string{"claude", "start"}, flags...), "--", "--version")
	s := w.onScreenIn(t, directory, args...)
	if _, err := s.until(shows, bound); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("%v: %v; the screen shows\n%s", args, err, trimmed(s.text()))
	}
}

func TestStartAgainInTheSameDirectory(t *testing.T) {
	w := theWorld
	directory := filepath.Join(t.TempDir(), "My Project")
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	const name, another = "claude-code-my-project", "claude-code-my-project-2"
	t.Cleanup(func() { w.remove(name); w.remove(another) })
	const version = `\d+\.\d+\.\d+ \(Claude Code\)`
	w.startIn(t, directory, version, "--memory", "1G")
	again := `Going on with ` + regexp.QuoteMeta(name) + ` of this directory(?s:.*)` + version
	w.startIn(t, directory, again)
	w.must(t, "stop", name)
	w.startIn(t, directory, again)
	if got := w.state(t, name); got != "running" {
		t.Errorf("%s is %q after it was started again", name, got)
	}
	if got := w.state(t, another); got != "" {
		t.Errorf("%s is there although nobody asked for it: %s", another, got)
	}
	w.startIn(t, directory, version, "--new", "--memory", "1G")
	if got := w.state(t, another); got != "running" {
		t.Errorf("%s is %q after --new", another, got)
	}
}

// TestTwoStartsAtOnceInOneDirectory: one sandbox is made, and both agents run in it.
func TestTwoStartsAtOnceInOneDirectory(t *testing.T) {
	w := theWorld
	directory := filepath.Join(t.TempDir(), "twice")
	if err := os.Mkdir(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	const name, another = "claude-code-twice", "claude-code-twice-2"
	t.Cleanup(func() { w.remove(name); w.remove(another) })
	var screens []*screen
	for range 2 {
		screens = append(screens, w.onScreenIn(t, directory, "claude", "start", "--memory", "1G", "--", "--version"))
	}
	for _, s := range screens {
		if _, err := s.until(`\d+\.\d+\.\d+ \(Claude Code\)`, bound); err != nil {
			t.Fatal(err)
		}
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("%v; the screen shows\n%s", err, trimmed(s.text()))
		}
	}
	if one, two := w.state(t, name), w.state(t, another); one != "running" || two != "" {
		t.Errorf("the first is %q, another %q", one, two)
	}
}
