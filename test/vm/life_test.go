//go:build vm

package vm_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestStopAndStartKeepsFiles(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "keeper")
	w.must(t, "exec", name, "--", "sh", "-c", "echo one >/home/agent/a; echo two >/workspace/b; sudo sh -c 'echo three >/etc/c'")
	w.must(t, "stop", name)
	if got := w.state(t, name); got != "stopped" {
		t.Fatalf("after stop the state is %q", got)
	}
	w.must(t, "start", name, "--no-attach")
	if got := w.must(t, "exec", name, "--", "cat", "/home/agent/a", "/workspace/b", "/etc/c"); got != "one\ntwo\nthree\n" {
		t.Fatalf("after a restart the files hold %q", got)
	}
}

// TestFolderOverTheWorkspaceHidesIt: what is under the host's folder, and what containers
// keep, outlives a restart as all else does.
func TestFolderOverTheWorkspaceHidesIt(t *testing.T) {
	w := theWorld
	const name = "hidden"
	w.must(t, "claude", "start", "-n", name, "--mount", t.TempDir(), "--no-attach")
	defer w.remove(name)
	w.must(t, "exec", name, "--", "sudo", "sh", "-c", "echo image >/var/lib/docker/image; echo image >/var/lib/containers/image")
	w.must(t, "mount", "remove", name, "/workspace")
	w.must(t, "exec", name, "--", "sh", "-c", "echo own >/workspace/own")
	for range 2 {
		w.must(t, "stop", name)
		w.must(t, "start", name, "--no-attach")
		got := w.must(t, "exec", name, "--", "sudo", "cat", "/workspace/own", "/var/lib/docker/image", "/var/lib/containers/image")
		if got != "own\nimage\nimage\n" {
			t.Fatalf("after a restart the files hold %q", got)
		}
	}
	if log := w.must(t, "logs", name); strings.Contains(log, "settle") {
		t.Errorf("the console says:\n%s", log)
	}
}

func TestGuestReboot(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "rebooter")
	before := w.must(t, "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id")
	w.run(t, nil, "exec", name, "--", "sudo", "reboot")
	var after string
	eventually(t, "the sandbox answers after its reboot", func() bool {
		r := w.run(t, nil, "exec", name, "--", "cat", "/proc/sys/kernel/random/boot_id")
		after = r.stdout
		return r.status == 0 && after != before
	})
	if after == before || w.state(t, name) != "running" {
		t.Fatalf("boot id %q before, %q after, state %q", before, after, w.state(t, name))
	}
}

func TestPowerOffInsideStopsTheSandbox(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "sleeper")
	w.run(t, nil, "exec", name, "--", "sudo", "poweroff")
	eventually(t, "the sandbox is stopped", func() bool { return w.state(t, name) == "stopped" })
	eventually(t, "its processes are gone", func() bool { return len(w.processes(name)) == 0 })
}

func TestTwoLaunchesSideBySide(t *testing.T) {
	w := theWorld
	var group sync.WaitGroup
	results := make([]result, 2)
	names := []string{"left", "right"}
	for i, name := range names {
		t.Cleanup(func() { w.remove(name) })
		group.Go(func() {
			results[i] = w.run(t, nil, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1")
		})
	}
	group.Wait()
	keys := map[string]bool{}
	for i, name := range names {
		if results[i].status != 0 {
			t.Fatalf("%s: %+v", name, results[i])
		}
		keys[w.must(t, "exec", name, "--", "cat", "/etc/machine-id")] = true
		keys[read(t, filepath.Join(w.home, "sandboxes", name, "ssh", "host_ed25519.pub"))] = true
	}
	if len(keys) != 4 {
		t.Fatalf("two sandboxes share an identity: %d different values of 4", len(keys))
	}
}

func TestKilledSupervisorLeavesNoVM(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "orphan")
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f; sync")
	monitor := w.monitor(t, name)
	syscall.Kill(w.supervisor(t, name), syscall.SIGKILL)
	eventually(t, "QEMU ends with its supervisor", func() bool { return syscall.Kill(monitor, 0) != nil })
	if got := w.state(t, name); got != "stopped" {
		t.Fatalf("the state is %q, want stopped", got)
	}
	w.must(t, "start", name, "--no-attach")
	if got := w.must(t, "exec", name, "--", "cat", "/workspace/f"); got != "kept\n" {
		t.Fatalf("the file holds %q", got)
	}
}

func TestKilledQEMUIsNoticed(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "victim")
	supervisor := w.supervisor(t, name)
	syscall.Kill(w.monitor(t, name), syscall.SIGKILL)
	eventually(t, "the supervisor ends", func() bool { return syscall.Kill(supervisor, 0) != nil })
	if got := w.state(t, name); got != "stopped" {
		t.Fatalf("the state is %q, want stopped", got)
	}
	if got := w.run(t, nil, "exec", name, "--", "true"); got.status != 125 || !strings.Contains(got.stderr, "start "+name) {
		t.Fatalf("exec on it: %+v; want 125 and how to start it", got)
	}
	w.must(t, "start", name, "--no-attach")
}

func TestDeleteLeavesNothing(t *testing.T) {
	w := theWorld
	before := files(t, w.home)
	name := w.sandbox(t, "gone")
	w.must(t, "delete", name, "--yes")
	if left := w.processes(name); len(left) != 0 {
		t.Errorf("processes: %v", left)
	}
	for path := range files(t, w.home) {
		if !before[path] && !strings.Contains(path, "/store/") && !strings.Contains(path, "/images/") {
			t.Errorf("left behind: %s", path)
		}
	}
}

// TestInterruptedStartLeavesNothing stops a launch at points spread over its
// life by SIGINT, SIGINT twice, SIGHUP and SIGKILL of the whole command.
func TestInterruptedStartLeavesNothing(t *testing.T) {
	w := theWorld
	w.common(t) // the image is here, so that the points fall into create and boot
	points := []time.Duration{300 * time.Millisecond, 2 * time.Second}
	if *long {
		for at := 50 * time.Millisecond; at < 6*time.Second; at += 500 * time.Millisecond {
			points = append(points, at)
		}
	}
	for _, signals := range [][]syscall.Signal{{syscall.SIGINT}, {syscall.SIGINT, syscall.SIGINT}, {syscall.SIGHUP}, {syscall.SIGKILL}} {
		for _, at := range points {
			interruptStart(t, w, signals, at)
		}
	}
}

func interruptStart(t *testing.T, w *world, signals []syscall.Signal, at time.Duration) {
	t.Helper()
	cmd := w.command(t.Context(), "claude", "start", "-n", "half", "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(at)
	for _, s := range signals {
		cmd.Process.Signal(s)
	}
	cmd.Wait()
	if cmd.ProcessState.Success() {
		w.remove("half") // the machine was faster than the point
		return
	}
	eventually(t, "no process of the interrupted start is left", func() bool { return len(w.processes("half")) == 0 })
	if got := w.state(t, "half"); got != "" {
		t.Errorf("%v at %v: list shows it as %q", signals, at, got)
	}
	if _, err := os.Stat(filepath.Join(w.home, "sandboxes", "half")); err == nil {
		t.Errorf("%v at %v: its folder is still there", signals, at)
	}
}

func TestLogsShowTheConsole(t *testing.T) {
	w := theWorld
	if got := w.must(t, "logs", w.common(t)); !strings.Contains(got, "smolvm-guest") {
		t.Fatalf("the console log does not hold the agent's lines: %q", got)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func files(t *testing.T, root string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			found[path] = true
		}
		return nil
	})
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return found
}
