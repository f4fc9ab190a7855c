package supervise

import (
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/record"
)

// newWatch is a watch of a guest that has opened its link, on a clock of its own.
func newWatch() (*troubles, *time.Time) {
	now := time.Unix(1e9, 0)
	t := newTroubles(func() time.Time { return now })
	t.opened()
	return t, &now
}

func (t *troubles) prints(text string) { _, _ = t.Write([]byte(text)) }

func looped(t *troubles) bool {
	select {
	case <-t.loop:
		return true
	default:
		return false
	}
}

func TestConsoleTellsOfTroubles(t *testing.T) {
	for line, want := range map[string]record.TroubleKind{
		"[   12.345678] Kernel panic - not syncing: sysrq triggered crash":                                  record.Panic,
		"[   99.000001] Out of memory: Killed process 312 (node) total-vm:913832kB, anon-rss:702512kB":      record.OutOfMemory,
		"[   99.000001] Memory cgroup out of memory: Killed process 7 (stress) total-vm:1kB":                record.OutOfMemory,
		"[  300.123456] I/O error, dev vdc, sector 1234 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2": record.DiskError,
		"[    1.000000] Run /init as init process":                                                          "",
		"panic: a program's own": "",
		strings.Repeat("x", 2*maxWatched) + "Kernel panic - not syncing":        "",
		"\x1b[31m[ 1.0] Kernel panic - not syncing: \x1b]0;title\a\x00colour\r": record.Panic,
	} {
		for _, size := range []int{1, 7, 10000} {
			watch, _ := newWatch()
			for text := "first line\n" + line + "\nlast line\n"; text != ""; {
				n := min(size, len(text))
				watch.prints(text[:n])
				text = text[n:]
			}
			all := watch.list()
			switch {
			case want == "" && len(all) != 0, want != "" && (len(all) != 1 || all[0].Kind != want || all[0].Count != 1):
				t.Errorf("%.60q in pieces of %d: %+v", line, size, all)
			case want != "" && (strings.ContainsAny(all[0].Line, "\x1b\r\n\x00") || !strings.Contains(all[0].Line, tellOf(want))):
				t.Errorf("%.60q is shown as %q", line, all[0].Line)
			}
		}
	}
}

// tellOf is what the line of a trouble has to say at least.
func tellOf(kind record.TroubleKind) string {
	return map[record.TroubleKind]string{record.Panic: "not syncing", record.OutOfMemory: "Killed process", record.DiskError: "sector 1234"}[kind]
}

func TestTroublesAreCountedAndOnlyTheirKindsAreNews(t *testing.T) {
	watch, now := newWatch()
	for range 1000 {
		watch.prints("Out of memory: Killed process 1 (a)\n")
		*now = now.Add(time.Second)
	}
	watch.prints("Out of memory: Killed process 2 (b)\nKernel panic - not syncing: x\n")
	all := watch.list()
	if len(all) != 2 || all[0].Kind != record.Panic || all[1].Count != 1001 || !strings.Contains(all[1].Line, "(b)") || !all[1].Last.Equal(*now) {
		t.Errorf("%+v", all)
	}
	<-watch.news
	select {
	case <-watch.news:
		t.Error("there is news without an end: each would write the record")
	default:
	}
}

// TestRestartsAreBounded: a guest that starts over and over is found out, however it
// ends: in a panic before or after it opened its link, or in order.
func TestRestartsAreBounded(t *testing.T) {
	for name, restart := range map[string]func(*troubles){
		"in order":           func(w *troubles) { w.opened() },
		"panic after ready":  func(w *troubles) { w.prints("Kernel panic - not syncing: x\n"); w.opened() },
		"panic before ready": func(w *troubles) { w.prints("Kernel panic - not syncing: x\n") },
	} {
		watch, now := newWatch()
		n := 0
		for ; n < 100 && !looped(watch); n++ {
			restart(watch)
			*now = now.Add(5 * time.Second)
		}
		if n < maxRestarts || n > maxRestarts+1 {
			t.Errorf("%s: found after %d restarts", name, n)
		}
		if all := watch.list(); len(all) == 0 || all[0].Kind != record.Reboots || !strings.Contains(watch.err().Error(), "switched off") {
			t.Errorf("%s: %+v", name, all)
		}
		slow, now := newWatch()
		for range 100 {
			restart(slow)
			*now = now.Add(restartWindow / 3)
		}
		if looped(slow) {
			t.Errorf("%s: one that restarts now and then is taken for a loop", name)
		}
	}
}

func TestFullDiskIsAState(t *testing.T) {
	watch, _ := newWatch()
	watch.disk("the disk is full: 0 of 20480 MiB are left")
	watch.disk("the disk is full: 0 of 20480 MiB are left")
	if all := watch.list(); len(all) != 1 || all[0].Kind != record.DiskFull || all[0].Count != 1 {
		t.Errorf("%+v", all)
	}
	watch.disk("")
	if all := watch.list(); len(all) != 0 {
		t.Errorf("with room again: %+v", all)
	}
}
