//go:build vm

package vm_test

import (
	"strings"
	"testing"
)

// TestRename renames a sandbox while a program runs in it: the program goes on,
// and the next start knows the sandbox by its new name, inside as well.
func TestRename(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "before")
	t.Cleanup(func() { w.remove("after") })
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f; setsid sleep 600 >/dev/null 2>&1 </dev/null &")
	w.must(t, "rename", name, "after")
	if got := w.state(t, "after"); got != "running" || w.state(t, name) != "" {
		t.Fatalf("after is %q, before is %q", got, w.state(t, name))
	}
	if got := w.must(t, "exec", "after", "--", "sh", "-c", "pgrep -x sleep >/dev/null && cat /workspace/f"); got != "kept\n" {
		t.Errorf("the program and its file: %q", got)
	}
	if r := w.run(t, nil, "exec", name, "--", "true"); r.status != 125 || !strings.Contains(r.stderr, "no sandbox") {
		t.Errorf("the old name: %+v", r)
	}
	w.must(t, "stop", "after")
	w.must(t, "start", "after", "--no-attach")
	if got := w.must(t, "exec", "after", "--", "sh", "-c", "hostname; cat /workspace/f"); got != "after\nkept\n" {
		t.Errorf("host name and file after a start: %q", got)
	}
}
