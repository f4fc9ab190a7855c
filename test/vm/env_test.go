//go:build vm

package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeptVariables: what env keeps reaches the agent at once and after a restart,
// and secrets stay out of all that is kept.
func TestKeptVariables(t *testing.T) {
	w := theWorld.as(t, t.TempDir(), "ANTHROPIC_API_KEY="+secretKey)
	name := w.sandbox(t, "kept")
	w.plantAgent(t, name, fakeAgent)
	shows := func(when, want string) {
		t.Helper()
		if got := w.must(t, "attach", name, "--", "show"); got != want+"\n" {
			t.Errorf("%s the agent sees %q, want %q", when, got, want)
		}
	}
	shows("at first", "key= flag=")
	w.must(t, "env", "set", name, "EXTRA=a b", "ANTHROPIC_API_KEY")
	shows("at once", "key= flag=a b") // whether a credential is kept out of the sandbox is for a start to say
	if got := w.must(t, "exec", name, "--", "sh", "-c", `echo "${EXTRA-unset}"`); got != "unset\n" {
		t.Errorf("a program that is not the agent's gets %q", got)
	}
	w.must(t, "stop", name)
	started := w.run(t, nil, "start", name, "--no-attach")
	if started.status != 0 || !strings.Contains(started.stderr, "The agent gets of yours: ANTHROPIC_API_KEY, EXTRA.") {
		t.Fatalf("start: %d, %s", started.status, started.stderr)
	}
	shows("after a restart", "key="+secretKey+" flag=a b")
	w.must(t, "env", "unset", name, "EXTRA")
	shows("after unset", "key="+secretKey+" flag=")

	folder := filepath.Join(w.home, "sandboxes", name)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != "scratch.ext4" && strings.Contains(read(t, filepath.Join(folder, e.Name())), secretKey) {
			t.Errorf("the value of a variable that was named alone is in %s", e.Name())
		}
	}
	if text := read(t, filepath.Join(folder, "record.json")); strings.Contains(text, "ANTHROPIC") {
		t.Error("the record has variables")
	}
}
