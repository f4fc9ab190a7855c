//go:build vm

package vm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCopy takes a tree into a sandbox and back: content, permissions, times,
// links and holes are what they were, and what a guest's root sends stays in the
// folder it is copied to.
func TestCopy(t *testing.T) {
	w := theWorld
	name, here := w.common(t), t.TempDir()
	stamp := time.Unix(1_000_000_000, 123_456_789)
	tree := filepath.Join(here, "tree")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(tree, "sub"), 0o755), os.WriteFile(filepath.Join(tree, "sub/run"), []byte("#!/bin/sh\necho ran\n"), 0o755),
		os.Symlink("sub/run", filepath.Join(tree, "link")), os.WriteFile(filepath.Join(tree, "hole"), []byte("head"), 0o600),
		os.Truncate(filepath.Join(tree, "hole"), 1<<34), os.Chtimes(filepath.Join(tree, "sub/run"), stamp, stamp),
	); err != nil {
		t.Fatal(err)
	}
	w.must(t, "cp", tree, name+":/tmp/")
	if got := w.must(t, "exec", name, "--", "sh", "-c", `/tmp/tree/link; cd /tmp/tree; stat -c '%U %a %y' sub/run; du -k hole; stat -c %s hole`); got !=
		"ran\nagent 755 2001-09-09 01:46:40.123456789 +0000\n4\thole\n17179869184\n" {
		t.Errorf("in the sandbox: %q", got)
	}
	w.must(t, "cp", name+":/tmp/tree", filepath.Join(here, "back"))
	run, err := os.Stat(filepath.Join(here, "back/sub/run"))
	if err != nil || run.Mode() != 0o755 || !run.ModTime().Equal(stamp) {
		t.Errorf("came back as %v, %v", run, err)
	}
	hole, err := os.Stat(filepath.Join(here, "back/hole"))
	if err != nil || hole.Size() != 1<<34 || hole.Sys().(*syscall.Stat_t).Blocks > 64 {
		t.Errorf("the sparse file came back as %v, %v", hole, err)
	}
	w.must(t, "exec", "-u", "root", name, "--", "sh", "-c",
		`mkdir -p /tmp/bad && cd /tmp/bad && ln -sf / out && ln -sf .. up && mknod dev c 1 3; mkfifo pipe; cp /bin/true su && chmod 4755 su`)
	got := w.run(t, nil, "cp", "-u", "root", name+":/tmp/bad", here)
	if got.status != 0 || strings.Count(got.stderr, "left out") != 2 {
		t.Errorf("status %d, said %q; want a device and a pipe left out", got.status, got.stderr)
	}
	if su, err := os.Stat(filepath.Join(here, "bad/su")); err != nil || su.Mode()&fs.ModeSetuid != 0 {
		t.Errorf("a set-user-id program came as %v, %v", su, err)
	}
}

// TestCopyOfStreams pipes content both ways and meets a user's limits.
func TestCopyOfStreams(t *testing.T) {
	w := theWorld
	name := w.common(t)
	text := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	if got := w.run(t, strings.NewReader(text), "cp", "-", name+":/tmp/stream"); got.status != 0 {
		t.Fatalf("status %d: %s", got.status, got.stderr)
	}
	if got := w.must(t, "cp", name+":/tmp/stream", "-"); got != text {
		t.Errorf("%d bytes came back of %d", len(got), len(text))
	}
	if got := w.run(t, strings.NewReader("x"), "cp", "-", name+":/etc/nobody-may"); got.status == 0 || !strings.Contains(got.stderr, "permission denied") {
		t.Errorf("agent wrote /etc: status %d, %s", got.status, got.stderr)
	}
	if got := w.run(t, nil, "cp", name+":/etc/shadow", "-"); got.status == 0 || got.stdout != "" {
		t.Errorf("agent read /etc/shadow: status %d", got.status)
	}
}

// TestCopyOfWhatChanges copies a file that a program goes on writing and cutting off:
// each copy has a size that the file had, and there is nothing else.
func TestCopyOfWhatChanges(t *testing.T) {
	w := theWorld
	name, here := w.common(t), t.TempDir()
	w.must(t, "exec", name, "--", "sh", "-c", `mkdir -p /tmp/busy && cd /tmp/busy && head -c 1000000 /dev/zero >file
		setsid sh -c 'while [ -e file ]; do truncate -s 1000000 file; head -c 20000000 /dev/zero >>file; done' >/dev/null 2>&1 </dev/null &`)
	for range 5 {
		if r := w.run(t, nil, "cp", name+":/tmp/busy", here); r.status != 0 || r.stderr != "" && !strings.Contains(r.stderr, "became shorter") {
			t.Fatalf("status %d: %s", r.status, r.stderr)
		}
		info, err := os.Stat(filepath.Join(here, "busy/file"))
		if err != nil || info.Size() < 1_000_000 || info.Size() > 21_000_000 {
			t.Errorf("it came as %v, %v", info, err)
		}
	}
	w.must(t, "exec", name, "--", "rm", "-r", "/tmp/busy")
	if left, err := os.ReadDir(filepath.Join(here, "busy")); len(left) != 1 || err != nil {
		t.Errorf("here are %v, %v", left, err)
	}
}
