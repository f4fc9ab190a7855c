package cli

import (
	"time"

	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
)

// idleView is when a running sandbox stops because nobody uses it.
type idleView struct {
	AfterSeconds float64    `json:"after_seconds"` // since the last use; 0: never
	Stops        *time.Time `json:"stops"`         // null: it is in use, or never stops
	Reason       string     `json:"reason"`        // why it never stops, where not the setting idle_stop says so
}

func idleOf(i *supervise.Idle) *idleView {
	if i == nil {
		return &idleView{} // an earlier smolvm's, which never stops it
	}
	return &idleView{AfterSeconds: i.After.Seconds(), Stops: when(i.Stops), Reason: ui.Clean(i.Never)}
}

// short is that for a table.
func (v *idleView) short(now time.Time) string {
	switch {
	case v == nil:
		return ""
	case v.Stops != nil:
		return "in " + ui.Age(*v.Stops, now)
	case v.AfterSeconds == 0:
		return "never"
	}
	return ""
}

// text is that for people.
func (v *idleView) text(now time.Time) string {
	after := func() string { return ui.Elapsed(time.Duration(v.AfterSeconds * float64(time.Second))) }
	switch {
	case v == nil:
		return ""
	case v.Stops != nil:
		return "in " + ui.Age(*v.Stops, now) + ", unless it is used"
	case v.AfterSeconds > 0:
		return after() + " after it was used last"
	case v.Reason != "":
		return "never by itself: " + v.Reason
	}
	return "never by itself"
}
