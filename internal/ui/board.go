package ui

import (
	"fmt"
	"time"

	"github.com/smolvm/smolvm/internal/event"
)

// rateWindow is how far back the shown rate looks.
const rateWindow = 5 * time.Second

// phrase is how a stage is put into words.
type phrase struct {
	before string // in front of the object; the object alone when empty
	done   string // what the end means
	quick  bool   // usually too short to be mentioned
}

var phrases = map[event.Stage]phrase{
	event.Resolve:  {before: "catalogue", done: "read", quick: true},
	event.Fetch:    {done: "verified"},
	event.Store:    {before: "store", done: "kept", quick: true},
	event.Scratch:  {before: "disk", done: "made", quick: true},
	event.Seed:     {before: "seed", done: "written", quick: true},
	event.Boot:     {before: "boot", done: "ready"},
	event.Attach:   {before: "attach", done: "attached", quick: true},
	event.Packages: {before: "packages", done: "done"},
	event.Recipe:   {before: "recipe", done: "done"},
	event.Pack:     {before: "pack", done: "written"},
	event.Publish:  {before: "publish", done: "published"},
}

// sample is how many bytes were done at a time.
type sample struct {
	at    time.Time
	bytes int64
}

// task is one stage's work on one object, while it runs.
type task struct {
	stage   event.Stage
	object  string
	begun   time.Time
	bytes   int64
	total   int64 // 0: unknown
	text    string
	samples []sample // of the last rateWindow
	shown   time.Time
}

// title names the task for people.
func (t *task) title() string {
	before := phrases[t.stage].before
	switch {
	case before == "":
		return Clean(t.object)
	case t.object == "":
		return before
	}
	return before + " " + Clean(t.object)
}

// advance notes how far the task is.
func (t *task) advance(now time.Time, bytes int64) {
	t.bytes = max(t.bytes, bytes)
	t.samples = append(t.samples, sample{now, t.bytes})
	for len(t.samples) > 2 && now.Sub(t.samples[0].at) > rateWindow {
		t.samples = t.samples[1:]
	}
}

// rate is bytes per second over the last rateWindow; 0 when it cannot be told.
func (t *task) rate() float64 {
	if len(t.samples) < 2 {
		return 0
	}
	first, last := t.samples[0], t.samples[len(t.samples)-1]
	if passed := last.at.Sub(first.at).Seconds(); passed > 0 {
		return float64(last.bytes-first.bytes) / passed
	}
	return 0
}

// state says how far the task is: "12.0 MiB of 40.0 MiB, 30 %, 8.0 MiB/s, 3.5 s left".
func (t *task) state(now time.Time) string {
	if t.bytes == 0 && t.total == 0 {
		if t.text != "" {
			return Clean(t.text) + ", " + Elapsed(now.Sub(t.begun))
		}
		return Elapsed(now.Sub(t.begun))
	}
	text := Bytes(t.bytes)
	if t.total > 0 {
		text = fmt.Sprintf("%s of %s, %d %%", text, Bytes(t.total), int64(float64(t.bytes)/float64(t.total)*100))
	}
	rate := t.rate()
	if rate <= 0 {
		return text
	}
	text += ", " + Bytes(int64(rate)) + "/s"
	if left := t.total - t.bytes; left > 0 {
		text += ", " + Elapsed(time.Duration(float64(left)/rate*float64(time.Second))) + " left"
	}
	return text
}

// result says how the task ended: "verified, 40.0 MiB in 2.1 s".
func (t *task) result(elapsed time.Duration) string {
	done := phrases[t.stage].done
	if done == "" {
		done = "done"
	}
	if t.bytes > 0 {
		return fmt.Sprintf("%s, %s in %s", done, Bytes(t.bytes), Elapsed(elapsed))
	}
	return fmt.Sprintf("%s in %s", done, Elapsed(elapsed))
}

// board holds the tasks that run, in the order of their start.
type board struct{ tasks []*task }

// apply takes one event of a task. It returns the task, and for its end how long it took.
func (b *board) apply(now time.Time, e event.Event) (t *task, ended bool, elapsed time.Duration) {
	t = b.find(now, e)
	if e.Total > 0 {
		t.total = e.Total
	}
	if e.Text != "" {
		t.text = e.Text
	}
	t.advance(now, e.Bytes)
	if e.Kind != event.Done {
		return t, false, 0
	}
	b.remove(t)
	if e.Elapsed > 0 {
		return t, true, e.Elapsed
	}
	return t, true, now.Sub(t.begun)
}

// find gives the event's task and starts it where it does not run yet.
func (b *board) find(now time.Time, e event.Event) *task {
	for _, t := range b.tasks {
		if t.stage == e.Stage && t.object == e.Object {
			return t
		}
	}
	t := &task{stage: e.Stage, object: e.Object, begun: now, shown: now}
	b.tasks = append(b.tasks, t)
	return t
}

func (b *board) remove(gone *task) {
	for i, t := range b.tasks {
		if t == gone {
			b.tasks = append(b.tasks[:i], b.tasks[i+1:]...)
			return
		}
	}
}
