package cli

import (
	"fmt"
	"time"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/ui"
)

// troubleView is something that went wrong in a sandbox's last run.
type troubleView struct {
	Kind  string    `json:"kind"`  // reboots, panic, disk-error, disk-full, out-of-memory
	Line  string    `json:"line"`  // that tells, of the console
	Count int       `json:"count"` // how often
	Last  time.Time `json:"last"`
}

func troublesOf(all []record.Trouble) []troubleView {
	views := make([]troubleView, 0, len(all))
	for _, t := range all {
		views = append(views, troubleView{string(t.Kind), ui.Clean(t.Line), t.Count, t.Last})
	}
	return views
}

// word names the trouble.
func (t troubleView) word() string {
	switch record.TroubleKind(t.Kind) {
	case record.Reboots:
		return "started over and over"
	case record.Panic:
		return "kernel panic"
	case record.DiskError:
		return "disk error"
	case record.DiskFull:
		return "disk full"
	case record.OutOfMemory:
		return "out of memory"
	}
	return t.Kind
}

// text is the trouble for people, with the line that tells.
func (t troubleView) text(now time.Time) string {
	when := ui.Age(now, t.Last) + " ago"
	if t.Count > 1 {
		when = fmt.Sprintf("%d times, the last %s", t.Count, when)
	}
	return fmt.Sprintf("%s (%s): %s", t.word(), when, t.Line)
}

// troubledState is a sandbox's state with the worst of what went wrong in its last run.
func troubledState(v sandboxView) string {
	if len(v.Troubles) == 0 {
		return v.State
	}
	return v.State + " (" + v.Troubles[0].word() + ")"
}
