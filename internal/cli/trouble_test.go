package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// What went wrong in a sandbox is in list, info and their JSON, with the line that
// tells, whether it runs or not.
func TestTroublesAreShown(t *testing.T) {
	w := newWorld(t)
	all := []record.Trouble{
		{Kind: record.Panic, Line: "[ 1.0] Kernel panic - not syncing: x", Count: 3, Last: fakeTime.Add(-2 * time.Minute)},
		{Kind: record.OutOfMemory, Line: "Out of memory: Killed process 7 (node)", Count: 1, Last: fakeTime.Add(-time.Hour)},
	}
	w.add("off", sandbox.Stopped)
	s := w.boxes["off"]
	s.Troubles = all
	w.boxes["off"] = s
	w.add("box", sandbox.Running)
	w.troubles = all[1:]
	for line, wants := range map[string][]string{
		"list":            {"running (out of memory)", "stopped (kernel panic)"},
		"info off":        {"kernel panic (3 times, the last 2 minutes ago): [ 1.0] Kernel panic - not syncing: x", "out of memory (1 hour ago): Out of memory: Killed"},
		"info box":        {"out of memory (1 hour ago)"},
		"info off --json": {`"kind": "panic"`, `"count": 3`, `"line": "[ 1.0] Kernel panic - not syncing: x"`},
		"list --json":     {`"kind": "out-of-memory"`},
	} {
		w.out.Reset()
		w.app.Main(strings.Fields(line))
		for _, want := range wants {
			if !strings.Contains(w.out.String(), want) && !strings.Contains(w.out.String(), strings.ReplaceAll(want, ": ", ":")) {
				t.Errorf("%s: no %q in\n%s", line, want, &w.out)
			}
		}
	}
}
