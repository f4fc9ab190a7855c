package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/event"
)

// The shown rate looks back over rateWindow. What arrives in bursts is measured
// from burst to burst; after a pause of burstGap the pause counts, too, and after
// stallAfter it is told instead of a rate. Time left
// is told once a rate has been seen for rateFrom, and not where it is beyond
// anybody's patience.
const (
	rateWindow = 5 * time.Second
	burstGap   = 2 * time.Second
	stallAfter = 3 * time.Second
	rateFrom   = time.Second
	longest    = 48 * time.Hour
)

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
	event.Service:  {before: "service", done: "answers", quick: true},
	event.Attach:   {before: "attach", done: "attached", quick: true},
	event.Wait:     {before: "wait", done: "over", quick: true},
	event.Verify:   {before: "verify", done: "read"},
	event.Prune:    {before: "prune", done: "done", quick: true},
	event.Save:     {before: "save", done: "written"},
	event.Load:     {before: "load", done: "verified"},
	event.Mirror:   {before: "mirror", done: "there"},
	event.Copy:     {before: "copy", done: "copied", quick: true},
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
	here    int64 // bytes that were there at the start
	bytes   int64
	total   int64 // 0: unknown
	text    string
	samples []sample  // of the last rateWindow
	moved   time.Time // when bytes last came
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
	if bytes > t.bytes {
		t.bytes, t.moved = bytes, now
	}
	if n := len(t.samples); n > 1 && t.samples[n-1].bytes == t.bytes && t.samples[n-2].bytes == t.bytes {
		t.samples[n-1].at = now // a pause is two samples however long it is
		return
	}
	t.samples = append(t.samples, sample{now, t.bytes})
}

// rate is bytes per second over the last rateWindow, and over how long it was
// measured; 0 when it cannot be told.
func (t *task) rate(now time.Time) (rate float64, over time.Duration) {
	for len(t.samples) > 1 && now.Sub(t.samples[1].at) >= rateWindow {
		t.samples = t.samples[1:]
	}
	if len(t.samples) == 0 {
		return 0, 0
	}
	first, last := t.samples[0], t.samples[len(t.samples)-1]
	if now.Sub(last.at) > burstGap {
		last = sample{now, t.bytes}
	}
	over = last.at.Sub(first.at)
	if over <= 0 {
		return 0, 0
	}
	return float64(last.bytes-first.bytes) / over.Seconds(), over
}

// state says how far the task is: "12.0 MiB of 40.0 MiB, 30 %, 8.0 MiB/s, 4 s left".
func (t *task) state(now time.Time) string {
	parts := []string{}
	switch {
	case t.total > 0:
		percent := int64(float64(t.bytes) / float64(t.total) * 100)
		parts = append(parts, fmt.Sprintf("%s of %s", Bytes(t.bytes), Bytes(t.total)), fmt.Sprintf("%d %%", percent))
	case t.bytes > 0:
		parts = append(parts, Bytes(t.bytes))
	}
	if len(parts) > 0 {
		parts = append(parts, t.speed(now)...)
	}
	if t.text != "" {
		parts = append(parts, Clean(t.text))
	}
	if t.bytes == 0 && t.total == 0 {
		parts = append(parts, Elapsed(now.Sub(t.begun)))
	}
	return strings.Join(parts, ", ")
}

// speed says how fast it goes and how long it will take, as far as that can be
// told, or since when nothing comes.
func (t *task) speed(now time.Time) []string {
	if t.total > 0 && t.bytes >= t.total {
		return nil
	}
	if still := now.Sub(t.moved); still >= stallAfter {
		return []string{"nothing new for " + Elapsed(still)}
	}
	rate, over := t.rate(now)
	if rate <= 0 {
		return nil
	}
	parts := []string{Bytes(int64(rate)) + "/s"}
	left := float64(t.total-t.bytes) / rate
	if left > 0 && over >= rateFrom && left < longest.Seconds() {
		parts = append(parts, Left(left)+" left")
	}
	return parts
}

// result says how the task ended: "verified, 40.0 MiB in 2.1 s".
func (t *task) result(elapsed time.Duration) string {
	done := phrases[t.stage].done
	if done == "" {
		done = "done"
	}
	switch {
	case t.bytes > 0 && t.here > 0:
		return fmt.Sprintf("%s, %s (%s were here) in %s", done, Bytes(t.bytes), Bytes(t.here), Elapsed(elapsed))
	case t.bytes > 0:
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
	if e.Kind == event.Start && e.Stage == event.Fetch && e.Bytes*100 >= t.total { // less is not worth a word: frames without data are always here
		t.here = e.Bytes
	}
	t.text = e.Text
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
	t := &task{stage: e.Stage, object: e.Object, begun: now, moved: now, shown: now}
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
