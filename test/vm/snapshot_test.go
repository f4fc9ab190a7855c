//go:build vm

package vm_test

import (
	"slices"
	"strings"
	"testing"
)

// whoAmI prints what a sandbox kept of the one that it began as, and what it must
// have of its own. Its host key is compared with the one made for it by each exec.
const whoAmI = `cat /workspace/f && pgrep -x sleep >/dev/null && echo runs
hostname
cat /etc/machine-id
od -An -tx1 -N16 /dev/urandom`

// TestForksRunOn forks a sandbox twice while a program runs in it: the program goes on
// in all three, and nobody is taken for another.
func TestForksRunOn(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "forked")
	t.Cleanup(func() { w.remove("forked-2"); w.remove("forked-3") })
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f; setsid sleep 600 >/dev/null 2>&1 </dev/null &")
	w.must(t, "fork", name, "-n", "2")
	w.apart(t, name, "forked-2", "forked-3")
	w.must(t, "exec", "forked-2", "--", "sh", "-c", "echo changed >/workspace/f")
	for _, other := range []string{name, "forked-3"} {
		if got := w.must(t, "exec", other, "--", "cat", "/workspace/f"); got != "kept\n" {
			t.Errorf("%s sees what its sibling wrote: %q", other, got)
		}
	}
	w.must(t, "stop", "forked-2")
	w.must(t, "start", "forked-2", "--no-attach")
	if got := w.must(t, "exec", "forked-2", "--", "sh", "-c", "hostname; cat /workspace/f"); got != "forked-2\nchanged\n" {
		t.Errorf("a fork that was stopped and started: %q", got)
	}
}

// TestSnapshotOutlivesItsSandbox keeps a sandbox, deletes it, and has two run on from
// the snapshot. Then nothing of it is left.
func TestSnapshotOutlivesItsSandbox(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "kept")
	t.Cleanup(func() { w.remove("second") })
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f; setsid sleep 600 >/dev/null 2>&1 </dev/null &")
	w.must(t, "snapshot", "create", name, "ready")
	w.must(t, "exec", name, "--", "sh", "-c", "echo later >/workspace/f")
	w.must(t, "delete", name, "--yes")
	w.must(t, "snapshot", "restore", "ready")
	w.must(t, "snapshot", "restore", "ready", "-n", "second")
	w.apart(t, name, "second")
	if r := w.run(t, nil, "snapshot", "restore", "ready", "-n", "second"); r.status != 4 || !strings.Contains(r.stderr, `"second"`) {
		t.Errorf("restoring to a name that is taken: %+v", r)
	}
	w.must(t, "snapshot", "rm", "ready")
	if got := w.must(t, "exec", "second", "--", "cat", "/workspace/f"); got != "kept\n" {
		t.Errorf("without its snapshot a sandbox has %q", got)
	}
	if r := w.run(t, nil, "snapshot", "restore", "ready"); r.status != 3 || !strings.Contains(r.stderr, `no snapshot "ready"`) {
		t.Errorf("restoring what was removed: %+v", r)
	}
}

// apart checks that sandboxes have one past, and each an identity of its own.
func (w *world) apart(t *testing.T, names ...string) {
	t.Helper()
	var seen []string
	for _, name := range names {
		lines := strings.Split(strings.TrimSpace(w.must(t, "exec", name, "--", "sh", "-c", whoAmI)), "\n")
		if len(lines) != 5 || lines[0] != "kept" || lines[1] != "runs" || lines[2] != name {
			t.Fatalf("%s is not what it was kept as: %q", name, lines)
		}
		for _, own := range lines[3:] {
			if slices.Contains(seen, own) {
				t.Errorf("%s has something in common with another: %s", name, own)
			}
			seen = append(seen, own)
		}
	}
}
