package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/smolvm/smolvm/internal/event"
)

// Style is the way progress is shown.
type Style string

// The styles. Auto redraws in place on a terminal and is Plain elsewhere.
const (
	Auto  Style = "auto"
	Plain Style = "plain"
	JSON  Style = "json"
)

// Styles are the values of --progress.
var Styles = []Style{Auto, Plain, JSON}

// How often progress is shown. A person watching a log sees something at least
// every two seconds: a line is due at the first tick that comes dueAfter after
// the last one, with room for a tick that is late.
const (
	redrawEvery = 100 * time.Millisecond
	tickEvery   = 500 * time.Millisecond
	dueAfter    = 1400 * time.Millisecond
)

// Progress is an event.Sink that shows events on the error stream until it is
// closed. After that it shows notices and warnings only.
type Progress struct {
	now  func() time.Time
	view view

	mu     sync.Mutex
	board  board
	closed bool

	stop   chan struct{}
	ticker sync.WaitGroup
}

// view is one way of showing a board. Its methods are called one at a time.
type view interface {
	event(e event.Event, t *task, ended bool, elapsed time.Duration, now time.Time, b *board)
	tick(now time.Time, b *board)
	close()
}

// NewProgress starts showing progress. The caller closes it.
func NewProgress(s *Streams, style Style, now func() time.Time) *Progress {
	p := &Progress{now: now, stop: make(chan struct{})}
	every := tickEvery
	switch {
	case style == JSON:
		p.view = &jsonView{encoder: json.NewEncoder(s.Err)}
	case style == Auto && s.Moves:
		p.view, every = &barView{streams: s}, redrawEvery
	default:
		p.view = &plainView{streams: s}
	}
	p.ticker.Go(func() { p.run(every) })
	return p
}

// Emit shows one event.
func (p *Progress) Emit(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if e.Kind == event.Notice || e.Kind == event.Warning {
		p.view.event(e, nil, false, 0, now, &p.board)
		return
	}
	if p.closed {
		return
	}
	t, ended, elapsed := p.board.apply(now, e)
	p.view.event(e, t, ended, elapsed, now, &p.board)
}

// Close takes unfinished work off the screen and ends the redrawing. It may be
// called more than once.
func (p *Progress) Close() {
	p.mu.Lock()
	was := p.closed
	p.closed = true
	if !was {
		close(p.stop)
		p.board = board{}
		p.view.close()
	}
	p.mu.Unlock()
	p.ticker.Wait()
}

// run shows the board regularly, whether or not events come.
func (p *Progress) run(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.mu.Lock()
			if !p.closed {
				p.view.tick(p.now(), &p.board)
			}
			p.mu.Unlock()
		}
	}
}

// jsonView writes every event as one line of JSON, and where no event of a task
// comes for long, how far it is.
type jsonView struct{ encoder *json.Encoder }

func (v *jsonView) event(e event.Event, t *task, _ bool, _ time.Duration, now time.Time, _ *board) {
	if t != nil {
		t.shown = now
	}
	_ = v.encoder.Encode(e) // nobody to tell when the error stream is gone
}

func (v *jsonView) tick(now time.Time, b *board) {
	for _, t := range b.tasks {
		if now.Sub(t.shown) < dueAfter {
			continue
		}
		v.event(event.Event{
			Time: now, Kind: event.Progress, Stage: t.stage, Object: t.object,
			Bytes: t.bytes, Total: t.total, Text: t.text,
		}, t, false, 0, now, b)
	}
}

func (v *jsonView) close() {}

// plainView writes lines that stay: starts, ends, and how far each task is.
type plainView struct{ streams *Streams }

func (v *plainView) event(e event.Event, t *task, ended bool, elapsed time.Duration, now time.Time, _ *board) {
	switch {
	case t == nil:
		_, _ = io.WriteString(v.streams.Err, v.streams.messageText(e))
	case ended && (!phrases[t.stage].quick || t.shown != t.begun):
		v.line(t, t.result(elapsed))
	case e.Kind == event.Start && !phrases[t.stage].quick:
		v.line(t, startText(t))
	case !ended:
		v.due(now, t)
	}
}

func startText(t *task) string {
	switch {
	case t.total > 0 && t.here > 0:
		return fmt.Sprintf("%s, %s of it are here already", Bytes(t.total), Bytes(t.here))
	case t.total > 0:
		return Bytes(t.total)
	}
	return "..."
}

func (v *plainView) tick(now time.Time, b *board) {
	for _, t := range b.tasks {
		v.due(now, t)
	}
}

func (v *plainView) due(now time.Time, t *task) {
	if now.Sub(t.shown) < dueAfter {
		return
	}
	t.shown = now
	v.line(t, t.state(now))
}

func (v *plainView) line(t *task, text string) {
	fmt.Fprintf(v.streams.Err, "%s: %s\n", t.title(), text)
}

func (v *plainView) close() {}

// barView keeps one line for each running task at the bottom of the terminal;
// ended tasks and messages scroll up above them.
type barView struct {
	streams *Streams
	drawn   int // lines of the last drawing
	last    time.Time
}

func (v *barView) event(e event.Event, t *task, ended bool, elapsed time.Duration, now time.Time, b *board) {
	switch {
	case t == nil:
		v.draw(now, b, v.streams.messageText(e))
	case ended && !phrases[t.stage].quick:
		v.draw(now, b, column(t.title())+" "+t.result(elapsed)+"\n")
	case now.Sub(v.last) >= redrawEvery:
		v.draw(now, b, "")
	}
}

func (v *barView) tick(now time.Time, b *board) { v.draw(now, b, "") }

func (v *barView) close() { v.draw(time.Time{}, &board{}, "") }

// draw replaces the drawing in one write, so that it does not flicker: first
// what stays on the screen, then a line for each running task.
func (v *barView) draw(now time.Time, b *board, stays string) {
	var out strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA\r\x1b[J", v.drawn)
	}
	out.WriteString(stays)
	size := v.streams.Size()
	shown := b.tasks[:min(len(b.tasks), max(int(size.Rows)-1, 1))] // a drawing taller than the screen could not be redrawn
	for _, t := range shown {
		out.WriteString(cut(column(t.title())+" "+t.bar(int(size.Columns))+t.state(now), int(size.Columns)-1) + "\n")
	}
	v.drawn, v.last = len(shown), now
	_, _ = io.WriteString(v.streams.Err, out.String())
}

// The rest of a line takes up to barless cells; the bar gets half of what is
// left, up to barCells, so that the time left is never cut off.
const (
	barless  = 68
	barCells = 20
)

// bar draws how far the task is, and nothing where that is unknown.
func (t *task) bar(columns int) string {
	width := min((columns-barless)/2, barCells)
	if t.total <= 0 || width <= 0 {
		return ""
	}
	full := min(int(float64(t.bytes)/float64(t.total)*float64(width)), width)
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", width-full) + "] "
}

// column pads a title so that what follows lines up.
func column(title string) string { return fmt.Sprintf("%-16s", title) }

// cut shortens a line to the width of the screen: a line that wraps would spoil the redrawing.
func cut(line string, width int) string {
	if width <= 0 || utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width])
}

// messageText is the line of a notice or a warning.
func (s *Streams) messageText(e event.Event) string {
	if e.Kind == event.Warning {
		return s.paint(yellow, "warning:") + " " + Clean(e.Text) + "\n"
	}
	return Clean(e.Text) + "\n"
}
