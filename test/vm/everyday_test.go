//go:build vm

package vm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// TestResize gives a sandbox with a file another size: the next start has it, the
// file is still there, and the disk takes hardly more room on the host.
func TestResize(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "grower")
	t.Cleanup(func() { w.remove(name) })
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f")
	if r := w.run(t, nil, "resize", name, "--cpus", "2"); r.status != 4 || !strings.Contains(r.stderr, "smolvm stop "+name) {
		t.Errorf("resize of one that runs: %+v", r)
	}
	w.must(t, "stop", name)
	before := allocated(t, w.scratch(name))
	w.must(t, "resize", name, "--cpus", "2", "--memory", "768M", "--disk", "60G")
	w.must(t, "start", name, "--no-attach")
	out := w.must(t, "exec", name, "--", "sh", "-c", `nproc
		awk '/MemTotal/ {print int($2/1024/100)}' /proc/meminfo; df -BG --output=size /workspace | tail -1 | tr -d ' G'; cat /workspace/f`)
	lines := strings.Split(out, "\n")
	if lines[0] != "2" || (lines[1] != "6" && lines[1] != "7") || (lines[2] != "59" && lines[2] != "60" && lines[2] != "58") || lines[3] != "kept" {
		t.Errorf("CPUs, hundreds of MiB, GiB of disk, file: %q", out)
	}
	w.must(t, "stop", name)
	after := allocated(t, w.scratch(name))
	t.Logf("the disk took %d KiB before and %d KiB after", before>>10, after>>10)
	if after-before > 64<<20 {
		t.Errorf("growing the disk took %d MiB on the host", (after-before)>>20)
	}
	if r := w.run(t, nil, "resize", name, "--disk", "10G"); r.status != 2 {
		t.Errorf("making it smaller: %+v", r)
	}
}

// TestDiskGrowsWhileItRuns fills more than the disk had, without a stop in between.
func TestDiskGrowsWhileItRuns(t *testing.T) {
	w := theWorld
	const name = "growing"
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1", "--disk", "1G")
	t.Cleanup(func() { w.remove(name) })
	size := func() string {
		return strings.TrimSpace(w.must(t, "exec", name, "--", "sh", "-c", "df -BM --output=size /workspace | tail -1 | tr -d ' M'"))
	}
	boot := w.must(t, "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id")
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f")
	before := size()
	if out := w.run(t, nil, "resize", name, "--disk", "5G"); out.status != 0 || !strings.Contains(out.stderr, "a disk of 5.0 GiB now") {
		t.Fatalf("resize: %+v", out)
	}
	var grown int
	if _, err := fmt.Sscan(size(), &grown); err != nil || grown < 4500 || grown > 5120 {
		t.Errorf("the disk had %s MiB and has %d, want nearly 5 GiB", before, grown)
	}
	// More than a GiB, which the disk would not have held; no file of the host takes it.
	w.must(t, "exec", name, "--", "sh", "-c", "fallocate -l 2G /workspace/large && rm /workspace/large && sync")
	if got := w.must(t, "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id", "/workspace/f"); got != boot+"kept\n" {
		t.Errorf("boot and file: %q, want %q", got, boot+"kept\n")
	}
	if r := w.run(t, nil, "resize", name, "--disk", "2G"); r.status != 2 {
		t.Errorf("making it smaller: %+v", r)
	}
	w.must(t, "stop", name)
	w.must(t, "start", name, "--no-attach")
	var again int
	if _, err := fmt.Sscan(size(), &again); err != nil || again != grown {
		t.Errorf("after a restart the disk has %d MiB, had %d", again, grown)
	}
}

func (w *world) scratch(name string) string {
	return filepath.Join(w.home, "sandboxes", name, "scratch.ext4")
}

// allocated is what a file takes on the host's disk in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}
