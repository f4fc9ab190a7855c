package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/ui"
)

// stage is one line of the table.
type stage struct {
	name  string
	bytes int64
	took  time.Duration
}

// report passes events on and remembers what ended.
type report struct {
	sink event.Sink

	mu     sync.Mutex
	stages []stage
}

// Emit notes the end of a stage.
func (r *report) Emit(e event.Event) {
	r.sink.Emit(e)
	if e.Kind != event.Done {
		return
	}
	done := stage{name: strings.TrimSpace(string(e.Stage) + " " + e.Object), bytes: e.Bytes, took: e.Elapsed}
	if e.Stage == event.Scratch {
		done.bytes = 0 // its size is what it may grow to
	}
	r.add(done)
}

func (r *report) add(s stage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stages = append(r.stages, s)
}

// spent is the time of all stages so far. What a command took beyond its stages
// is the difference.
func (r *report) spent() (sum time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.stages {
		sum += s.took
	}
	return sum
}

// summary prints what the agent said, the table, what booted, where things are,
// and what to try next. Only the agent's words are the result.
func (q *quickstart) summary(l launch) error {
	row, err := q.row()
	if err != nil {
		return err
	}
	fmt.Fprintln(q.streams.Out, strings.TrimSpace(ui.CleanLines(l.output)))
	fmt.Fprintln(q.streams.Err)
	if err := q.table(l).Write(q.streams.Err); err != nil {
		return err
	}
	standIn := ""
	if row.Kernel.StandIn != "" {
		standIn = fmt.Sprintf(" (%s's, a stand-in for SmolVM's own)", row.Kernel.StandIn)
	}
	q.streams.Say("")
	q.streams.Say("agent        %s %s", row.Agent.Name, row.Agent.Version)
	q.streams.Say("kernel       %s%s", row.Kernel.Version, standIn)
	q.streams.Say("program      %s", q.Program)
	q.streams.Say("images       %s", q.images())
	q.streams.Say("build cache  %s", q.config.BuildCache)
	q.streams.Say("")
	q.streams.Say("Try next:")
	for _, command := range []string{q.Preset + " start -n demo", "exec demo -- uname -a", "list"} {
		q.streams.Say("  SMOLVM_MANIFEST=%s %s %s", q.manifest(), q.Program, command)
	}
	return nil
}

// table has a line for each stage, in the order they ended.
func (q *quickstart) table(l launch) *ui.Table {
	table := ui.NewTable("STAGE", "BYTES", "TIME")
	q.report.mu.Lock()
	defer q.report.mu.Unlock()
	for _, s := range append(q.Steps, q.report.stages...) {
		size := ""
		if s.bytes > 0 {
			size = ui.Bytes(s.bytes)
		}
		table.Add(s.name, size, ui.Elapsed(s.took))
	}
	table.Add("the whole launch", "", ui.Elapsed(l.took))
	return table
}

// row is what was published and launched.
func (q *quickstart) row() (manifest.Row, error) {
	raw, err := os.ReadFile(q.manifest())
	if err != nil {
		return manifest.Row{}, fmt.Errorf("read what was published: %w", err)
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return manifest.Row{}, fmt.Errorf("read what was published: %w", err)
	}
	for _, row := range m.Rows {
		if row.Arch == arch && (row.Preset == q.Preset || strings.HasPrefix(row.Preset, q.Preset+"-")) {
			return row, nil
		}
	}
	return manifest.Row{}, fmt.Errorf("nothing was published for %s on %s", q.Preset, arch)
}
