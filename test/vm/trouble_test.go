//go:build vm

package vm_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// trouble is what list says of something that went wrong.
type trouble struct {
	Kind, Line string
	Count      int
}

func (w *world) troubles(t *testing.T, name string) (found map[string]trouble) {
	t.Helper()
	var envelope struct {
		Data []struct {
			Name     string
			Troubles []trouble
		}
	}
	if err := json.Unmarshal([]byte(w.must(t, "list", "--json")), &envelope); err != nil {
		t.Fatal(err)
	}
	found = map[string]trouble{}
	for _, s := range envelope.Data {
		if s.Name != name {
			continue
		}
		for _, one := range s.Troubles {
			found[one.Kind] = one
		}
	}
	return found
}

// shows waits until list says of a kind of trouble, or no longer does.
func (w *world) shows(t *testing.T, name, kind string, there bool) (one trouble) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		one, is := w.troubles(t, name)[kind]
		if is == there {
			return one
		}
		if time.Now().After(deadline) {
			t.Fatalf("90 s later %s is shown: %v", kind, is)
		}
	}
}

// TestTroublesAreShown: memory that is used up, a disk that is full, and a kernel
// that panics are in list and info with the line that tells, and the sandbox goes
// on as well as it can.
func TestTroublesAreShown(t *testing.T) {
	w := theWorld
	const name = "troubled"
	w.must(t, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "512M", "--disk", "512M", "--cpus", "1")
	t.Cleanup(func() { w.remove(name) })
	if got := w.troubles(t, name); len(got) != 0 {
		t.Fatalf("a sound sandbox has %+v", got)
	}

	hog := w.run(t, nil, "exec", name, "--", "python3", "-c", "a=[]\nwhile True: a.append(bytearray(8<<20))")
	if hog.status == 0 {
		t.Errorf("the hog ended with %+v", hog)
	}
	if got := w.shows(t, name, "out-of-memory", true); !strings.Contains(got.Line, "(python3)") || got.Count < 1 {
		t.Errorf("out of memory: %+v", got)
	}

	full := w.run(t, nil, "exec", name, "--", "sh", "-c", "cat /dev/zero >/workspace/fill")
	if !strings.Contains(full.stderr, "No space left") {
		t.Errorf("the disk took all: %+v", full)
	}
	if got := w.shows(t, name, "disk-full", true); !strings.Contains(got.Line, "the sandbox's disk is full") {
		t.Errorf("disk full: %+v", got)
	}
	if got := w.must(t, "list"); !strings.Contains(got, "running (disk full)") {
		t.Errorf("list says\n%s", got)
	}
	w.must(t, "exec", name, "--", "rm", "/workspace/fill")
	w.shows(t, name, "disk-full", false)

	// The signal ends the first process, and with it the kernel.
	w.run(t, nil, "exec", "-u", "root", name, "--", "sh", "-c", "echo c >/proc/sysrq-trigger || kill -ABRT 1")
	if got := w.shows(t, name, "panic", true); !strings.Contains(got.Line, "Kernel panic - not syncing") || got.Count != 1 {
		t.Errorf("panic: %+v", got)
	}
	w.must(t, "exec", name, "--", "true") // it came back by itself
	if got := w.must(t, "info", name); !strings.Contains(got, "kernel panic") || !strings.Contains(got, "not syncing") {
		t.Errorf("info says\n%s", got)
	}
	w.must(t, "stop", name)
	if got := w.must(t, "list"); !strings.Contains(got, "stopped (kernel panic)") {
		t.Errorf("list says\n%s", got)
	}
	w.must(t, "start", name, "--no-attach")
	if got := w.troubles(t, name); len(got) != 0 {
		t.Errorf("a new run begins with %+v", got)
	}
}
