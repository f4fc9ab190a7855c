package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/imagebuild"
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
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stages = append(r.stages, stage{name: strings.TrimSpace(string(e.Stage) + " " + e.Object), bytes: e.Bytes, took: e.Elapsed})
}

// summary prints the table, what booted, where things are, and what to try next.
func (t tools) summary(r *report, m manifest.Manifest, l launch) error {
	fmt.Fprintf(t.streams.Out, "%s\n", strings.TrimSpace(ui.CleanLines(l.Output)))
	table := ui.NewTable("STAGE", "BYTES", "TIME")
	var total time.Duration
	for _, s := range t.Steps {
		total += s.took
		table.Add(s.name, "", ui.Elapsed(s.took))
	}
	for _, s := range r.stages {
		size := ""
		if s.bytes > 0 {
			size = ui.Bytes(s.bytes)
		}
		table.Add(s.name, size, ui.Elapsed(s.took))
	}
	table.Add("launch, from command to its end", "", ui.Elapsed(l.Took))
	fmt.Fprintln(t.streams.Err)
	if err := table.Write(t.streams.Err); err != nil {
		return err
	}
	t.sayKernel(m)
	t.sayNext()
	return nil
}

// sayKernel names the kernel that booted.
func (t tools) sayKernel(m manifest.Manifest) {
	for _, row := range m.Rows {
		if row.Preset != t.Presets[0] || row.Arch != t.Arch {
			continue
		}
		standIn := ""
		if row.Kernel.StandIn != "" {
			standIn = fmt.Sprintf(" (%s's, a stand-in for SmolVM's own)", row.Kernel.StandIn)
		}
		t.streams.Say("kernel     %s%s", row.Kernel.Version, standIn)
		t.streams.Say("agent      %s %s", row.Agent.Name, row.Agent.Version)
	}
}

// sayNext names the paths and three commands.
func (t tools) sayNext() {
	manifest := filepath.Join(t.Dist, "images", imagebuild.ManifestFile)
	t.streams.Say("program    %s", t.Program)
	t.streams.Say("images     %s", filepath.Dir(manifest))
	t.streams.Say("build cache %s", t.config.BuildCache)
	word := cmp.Or(strings.TrimSuffix(t.Presets[0], "-code"), t.Presets[0])
	t.streams.Say("\nTry next:")
	t.streams.Say("  export SMOLVM_MANIFEST=%s", manifest)
	t.streams.Say("  %s %s start", t.Program, word)
	t.streams.Say("  %s list", t.Program)
}
