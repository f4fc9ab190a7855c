//go:build vm

package vm_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSoakOfLives repeats a sandbox's whole life. No process, socket, file
// descriptor or byte of disk may stay.
func TestSoakOfLives(t *testing.T) {
	needLong(t)
	w := theWorld
	w.common(t)
	const cycles = 24
	var first footprint
	var descriptors int
	for i := range cycles {
		open := life(t, w)
		left := look(t, w.home).without("sandboxes/common/")
		if i == 0 {
			first, descriptors = left, open
			continue
		}
		if text := left.difference(first); text != "" {
			t.Fatalf("after cycle %d:\n%s", i, text)
		}
		if open > descriptors+2 { // a session that is just being closed
			t.Fatalf("the supervisor of cycle %d has %d files open, the first had %d", i, open, descriptors)
		}
	}
}

// life runs one sandbox from creation to deletion and gives the number of files
// its supervisor has open when it has come up for the second time.
func life(t *testing.T, w *world) int {
	t.Helper()
	const name = "cycle"
	w.must(t, launch(name)...)
	defer w.remove(name)
	w.must(t, "exec", name, "--", "sh", "-c", "echo kept >/workspace/f")
	w.must(t, "stop", name)
	w.must(t, "start", name, "--no-attach")
	if got := w.must(t, "exec", name, "--", "cat", "/workspace/f"); got != "kept\n" {
		t.Fatalf("the file holds %q", got)
	}
	open := openFiles(t, w.supervisor(t, name))
	w.must(t, "delete", name, "--yes")
	for _, p := range w.processes("") {
		if names(p.args, name) {
			t.Fatalf("a process is left: %v", p)
		}
	}
	return open
}

// TestSoakOfCommands runs commands in one sandbox, one after the other: nothing
// of them stays, in the supervisor or in the guest.
func TestSoakOfCommands(t *testing.T) {
	w := theWorld
	warm, total := 50, 200
	if *long {
		warm, total = 500, 10_000
	}
	name := w.sandbox(t, "busy")
	supervisor := w.supervisor(t, name)
	var before, after load
	for i := range total {
		if got := w.must(t, "exec", name, "--", "echo", strconv.Itoa(i)); got != strconv.Itoa(i)+"\n" {
			t.Fatalf("command %d printed %q", i, got)
		}
		if i == warm {
			before = w.load(t, name, supervisor)
		}
	}
	eventually(t, "sessions are closed", func() bool {
		after = w.load(t, name, supervisor)
		return after.files <= before.files && after.threads <= before.threads+4 && after.guest <= before.guest && after.guestFiles <= before.guestFiles
	})
	t.Logf("supervisor and guest after %d commands: %+v, after %d: %+v", warm, before, total, after)
	if after.memory > before.memory+16<<10 {
		t.Errorf("the supervisor grew from %d to %d KiB", before.memory, after.memory)
	}
	if after.guestMemory > before.guestMemory+8<<10 {
		t.Errorf("the guest's agent grew from %d to %d KiB", before.guestMemory, after.guestMemory)
	}
	if got := w.supervisor(t, name); got != supervisor {
		t.Errorf("the supervisor is %d, was %d", got, supervisor)
	}
}

// load is what a sandbox uses.
type load struct {
	files, threads, memory int // of the supervisor; KiB
	guest                  int // processes of the guest that are no kernel threads
	guestFiles             int // of the guest's agent
	guestMemory            int // of the guest's agent, KiB
}

func (w *world) load(t *testing.T, name string, supervisor int) load {
	t.Helper()
	out := w.must(t, "exec", "-u", "root", name, "--", "sh", "-c",
		"ps -eo ppid= | grep -vcx ' *2'; ls /proc/1/fd | wc -l; sed -n 's/VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/1/status")
	l := load{files: openFiles(t, supervisor), memory: resident(t, supervisor)}
	if _, err := fmt.Sscan(out, &l.guest, &l.guestFiles, &l.guestMemory); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(supervisor) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	l.threads = len(tasks)
	return l
}

// TestIdleSandboxRests: a sandbox nobody uses costs its supervisor no work.
func TestIdleSandboxRests(t *testing.T) {
	needLong(t)
	w := theWorld
	supervisor := w.supervisor(t, w.common(t))
	before := ticks(t, supervisor)
	time.Sleep(20 * time.Second)
	if used := ticks(t, supervisor) - before; used > 10 {
		t.Errorf("20 s of rest cost the supervisor %d ticks of 10 ms", used)
	}
}

// ticks is the processor time of a process in clock ticks of 10 ms.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	line := read(t, "/proc/"+strconv.Itoa(pid)+"/stat")
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		t.Fatal(err)
	}
	system, err := strconv.Atoi(fields[12])
	if err != nil {
		t.Fatal(err)
	}
	return user + system
}
