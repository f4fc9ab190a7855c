//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// inGuest is how much of the tests of a faulty disk runs in a guest. A point takes
// two seconds there on a host that emulates, and there are some five thousand: root
// of a host tries them all in a quarter of an hour (scripts/test-full, where it may
// mount FUSE).
type inGuest struct {
	tests  string // regular expression
	points int    // of each walk
	bound  time.Duration
}

var (
	quickDisk = inGuest{"^(TestPull|TestUpgrade|TestPrune|TestRot)$", 3, 4 * time.Minute}
	longDisk  = inGuest{".", 8, 40 * time.Minute}
)

// TestFaultyDisk takes the program and the tests of test/faultdisk/diskcase into
// a sandbox and runs them there as root, who may mount FUSE: commands on a disk
// on which every step may be the last.
func TestFaultyDisk(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "faultydisk")
	w.must(t, "exec", name, "--", "sudo", "sh", "-c", "test -c /dev/fuse || mknod /dev/fuse c 10 229; install -d -o agent /workspace/case /workspace/case/tmp")
	w.give(t, name, w.bin, "/workspace/case/smolvm")
	w.give(t, name, compiled(t, "../faultdisk/diskcase"), "/workspace/case/diskcase.test")
	w.give(t, name, compiled(t, "../faultdisk"), "/workspace/case/faultdisk.test")

	part := quickDisk
	if *long {
		part = longDisk
	}
	ctx, cancel := context.WithTimeout(t.Context(), part.bound)
	defer cancel()
	for _, command := range []string{
		"./faultdisk.test -test.v",
		fmt.Sprintf("./diskcase.test -test.v -test.run '%s' -test.timeout %v -smolvm ./smolvm -sample %d -seed %d",
			part.tests, part.bound, part.points, dice(t).Uint64()),
	} {
		cmd := w.command(ctx, "exec", name, "--", "sudo", "sh", "-c", "cd /workspace/case && TMPDIR=$PWD/tmp "+command)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil || !bytes.Contains(out, []byte("--- PASS")) || bytes.Contains(out, []byte("--- SKIP")) {
			t.Errorf("%s in a guest: %v", command, err)
		}
	}
}

// give copies a file of the host into a sandbox, as a program.
func (w *world) give(t *testing.T, name, from, to string) {
	t.Helper()
	file, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := w.run(t, file, "exec", name, "--", "sh", "-c", fmt.Sprintf("cat >%s && chmod 755 %[1]s", to))
	if got.status != 0 {
		t.Fatalf("copy %s into %s: %s", from, name, got.stderr)
	}
}

// compiled builds the tests of a package for the guest, which has the host's architecture.
func compiled(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg)+".test")
	cmd := exec.CommandContext(t.Context(), "../../scripts/go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, text)
	}
	return out
}
