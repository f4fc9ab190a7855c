package sandbox_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

// TestStateFolderMovedUnderARunningSandbox: its supervisor is where it was, and nobody
// finds it. Everyone is told so, and how to get rid of it.
func TestStateFolderMovedUnderARunningSandbox(t *testing.T) {
	b := newBench(t)
	b.create("box")
	r := b.start("box")
	before := b.home
	moved := openBench(before + ".moved")
	moved.t = t
	if err := os.Rename(before, moved.home); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(moved.home) })
	moved.wantState("box", sandbox.Running)
	_, err := moved.m.Connect(t.Context(), "box")
	_, remounted := moved.m.Remount(t.Context(), "box", supervise.MountChange{Remove: []string{"/data"}})
	for attempt, err := range map[string]error{
		"connect": err,
		"mount":   remounted,
		"stop":    moved.m.Stop(t.Context(), "box", time.Minute),
		"delete":  moved.m.Delete(t.Context(), "box", sandbox.DeleteOptions{Force: true}),
		"rename":  moved.m.Rename(t.Context(), "box", "other"),
	} {
		if err == nil || !strings.Contains(err.Error(), "was the state folder moved") ||
			!strings.Contains(fault.HintOf(err), "kill "+strconv.Itoa(r.Pid)) {
			t.Errorf("%s: %v; hint %q", attempt, err, fault.HintOf(err))
		}
	}
	if err := syscall.Kill(r.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	moved.released("box")
	moved.wantState("box", sandbox.Stopped)
	if err := moved.m.Delete(t.Context(), "box", sandbox.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// TestMountedFolderIsGone: a later start names the command that does without it, and
// the first one does not.
func TestMountedFolderIsGone(t *testing.T) {
	b := newBench(t)
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	begin := func() string {
		_, err := b.m.Start(t.Context(), "box", sandbox.StartOptions{Timeout: time.Minute})
		wantFault(t, err, fault.NotFound, shared)
		return fault.HintOf(err)
	}
	create := func() {
		spec := b.spec("box")
		spec.Mode = "run"
		spec.Mounts = []record.Mount{{Host: shared, Guest: "/data"}}
		if _, err := b.m.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	create()
	b.start("box")
	if err := b.m.Stop(t.Context(), "box", time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(shared); err != nil {
		t.Fatal(err)
	}
	if hint := begin(); !strings.Contains(hint, "smolvm mount remove box /data") {
		t.Errorf("a later start hints %q", hint)
	}
	if err := b.m.Delete(t.Context(), "box", sandbox.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	create()
	if hint := begin(); strings.Contains(hint, "mount remove") {
		t.Errorf("the first start hints %q", hint)
	}
}
