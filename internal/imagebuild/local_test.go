package imagebuild

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

func demoFoundation() Foundation {
	return Foundation{
		Arch: "amd64", Image: record.Image{Kernel: "/store/kernel", Layers: []record.Layer{{Name: "base", Path: "/store/base"}}},
		Kernel: manifest.Kernel{Version: "6.12.1"},
		Base:   manifest.Asset{Name: "base", Content: manifest.Digest{SHA256: strings.Repeat("b", 64), Size: 1}},
	}
}

func TestBuildOn(t *testing.T) {
	b, machines := newBuilder(t, t.TempDir())
	local, err := b.BuildOn(t.Context(), demoFoundation(), demoPreset())
	if err != nil {
		t.Fatal(err)
	}
	if len(machines.specs) != 1 || machines.specs[0].Image.Kernel != "/store/kernel" || machines.specs[0].Mode != wire.ModeBuild {
		t.Errorf("built in %+v", machines.specs)
	}
	row := local.Row
	if row.Preset != "demo" || row.Agent.Version != "1.2.3" || len(row.Layers) != 2 || row.Layers[0].Name != "base" || row.Kernel.Version != "6.12.1" {
		t.Errorf("row %+v", row)
	}
	for _, blob := range []manifest.Blob{row.Layers[1].Archive, row.Layers[1].Index} {
		if info, err := os.Stat(filepath.Join(local.Dir, blob.File)); err != nil || info.Size() != blob.Size {
			t.Errorf("%s: %v", blob.File, err)
		}
	}
	again, err := b.BuildOn(t.Context(), demoFoundation(), demoPreset())
	if err != nil || len(machines.specs) != 1 || again.Row.Layers[1] != row.Layers[1] {
		t.Errorf("the second build: %v, %d sandboxes", err, len(machines.specs))
	}
	other := demoFoundation()
	other.Base.Content.SHA256 = strings.Repeat("c", 64)
	if b.LocalStep(other, demoPreset()).Cached {
		t.Error("a layer on another base is taken for this one")
	}
}

func TestBuildOnTwiceAtOnce(t *testing.T) {
	dir := t.TempDir()
	first, machines := newBuilder(t, dir)
	second, _ := newBuilder(t, dir)
	second.machines = first.machines
	var group sync.WaitGroup
	for _, b := range []*Builder{first, second} {
		group.Go(func() {
			if _, err := b.BuildOn(t.Context(), demoFoundation(), demoPreset()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(machines.specs) != 1 {
		t.Errorf("%d sandboxes for two equal builds", len(machines.specs))
	}
}

func TestFailedBuildOnIsNotKept(t *testing.T) {
	b, machines := newBuilder(t, t.TempDir())
	machines.fail = errors.New("power cut")
	if _, err := b.BuildOn(t.Context(), demoFoundation(), demoPreset()); !errors.Is(err, machines.fail) {
		t.Fatalf("error %v", err)
	}
	if b.LocalStep(demoFoundation(), demoPreset()).Cached {
		t.Error("a failed build counts as done")
	}
}

func TestBuildWholeGathersEverything(t *testing.T) {
	b, machines := newBuilder(t, t.TempDir())
	local, err := b.BuildWhole(t.Context(), "amd64", demoPreset())
	if err != nil {
		t.Fatal(err)
	}
	assets := append([]manifest.Asset{local.Row.Kernel.Image, *local.Row.Kernel.Modules}, local.Row.Layers...)
	for _, a := range assets {
		for _, blob := range []manifest.Blob{a.Archive, a.Index} {
			if _, err := os.Stat(filepath.Join(local.Dir, blob.File)); err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
		}
	}
	if again, err := b.BuildWhole(t.Context(), "amd64", demoPreset()); err != nil || again.Dir != local.Dir || len(machines.specs) != 2 {
		t.Errorf("again: %v, %d sandboxes", err, len(machines.specs))
	}
}

func TestForeignLockFileIsRefusedBeforeWork(t *testing.T) {
	b, machines := newBuilder(t, t.TempDir())
	p := demoPreset()
	p.Recipe.Locks = []preset.Lock{{File: "demo/lock.json", SHA256: strings.Repeat("0", 64)}}
	if _, err := b.BuildOn(t.Context(), demoFoundation(), p); fault.CodeOf(err) != fault.Usage || len(machines.specs) > 0 {
		t.Errorf("%v, %d sandboxes", err, len(machines.specs))
	}
}

// hanging is a session in which no program ends by itself.
type hanging struct{}

func (hanging) Exec(ctx context.Context, _ wire.Start, _ io.Reader, out, _ io.Writer) (int, error) {
	_, _ = io.WriteString(out, "working\n")
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestHangingStepIsEnded(t *testing.T) {
	r := runner{session: hanging{}, sink: event.Discard{}, now: time.Now, log: io.Discard, logFile: "/log", name: "build-demo"}
	recipe := preset.Recipe{Steps: []preset.Step{{Name: "install", Run: "sleep infinity", Limit: "1s"}}}
	err := r.run(t.Context(), recipe)
	if fault.CodeOf(err) != fault.Build || !strings.Contains(err.Error(), "did not end within 1s") || !strings.Contains(err.Error(), "working") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(fault.HintOf(err), "/log") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.run(ctx, recipe); fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("an interrupt became %v", err)
	}
}

// TestStopwatch holds that the second build says how long the rest will take.
func TestStopwatch(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	said := func() (texts []string) {
		timed := b.timing("demo")
		w := timed.sink.(*stopwatch)
		w.next = sinkFunc(func(e event.Event) { texts = append(texts, string(e.Kind)+" "+e.Text) })
		for _, step := range []string{"one", "two"} {
			timed.sink.Emit(event.Event{Kind: event.Start, Stage: event.Recipe, Object: step})
			timed.sink.Emit(event.Event{Kind: event.Done, Stage: event.Recipe, Object: step, Elapsed: 90 * time.Second})
		}
		if err := w.keep(); err != nil {
			t.Fatal(err)
		}
		return texts
	}
	if texts := said(); strings.Join(texts, "|") != "start |done |start |done " {
		t.Errorf("the first build said %q", texts)
	}
	if texts := said(); strings.Join(texts, "|") != "start about 3m0s left|done |start about 1m30s left|done " {
		t.Errorf("the second build said %q", texts)
	}
	if err := os.WriteFile(b.timing("demo").sink.(*stopwatch).path, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if texts := said(); texts[0] != "start " {
		t.Errorf("after damage: %q", texts)
	}
}

type sinkFunc func(event.Event)

// Emit calls f.
func (f sinkFunc) Emit(e event.Event) { f(e) }
