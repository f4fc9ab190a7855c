package imagebuild

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/wire"
)

// fakeMachines "runs" build sandboxes: the packed layer is the list of what ran.
type fakeMachines struct {
	mu    sync.Mutex
	specs []MachineSpec
	fail  error // of the next sandbox
}

func (f *fakeMachines) Clean(context.Context) error { return nil }

func (f *fakeMachines) Run(ctx context.Context, spec MachineSpec, work func(context.Context, Session) error, blank string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, spec)
	if f.fail != nil {
		return f.fail
	}
	s := &scripted{answer: func(start wire.Start, _ string) (string, int, error) {
		if start.Argv[0] == "demo" {
			return "demo 1.2.3", 0, nil
		}
		return "", 0, nil
	}}
	if err := work(ctx, s); err != nil {
		return err
	}
	return os.WriteFile(blank, []byte(strings.Join(s.ran, "\n")), 0o644)
}

func demoPreset() preset.Preset {
	return preset.Preset{
		Name: "demo", Agent: preset.Agent{Name: "Demo", Version: "1.2.3", Check: []string{"demo", "--version"}},
		Recipe: preset.Recipe{
			Steps: []preset.Step{{Name: "install", Run: "npm install demo@1.2.3"}},
			Files: []preset.File{{Path: "/home/agent/.demo", Content: "{}"}},
		},
	}
}

// newBuilder makes a builder on fake tools with one package, one wheel and a kernel.
func newBuilder(t *testing.T, dir string) (*Builder, *fakeMachines) {
	t.Helper()
	run, packages := fakeTools(t)
	fakeDeb(t, packages, "linux-image-6.12.1-demo",
		tarOf(t, member{name: "control", data: "Package: linux-image-6.12.1-demo\nVersion: 6\nArchitecture: amd64\n"}),
		tarOf(t, member{name: "./boot/vmlinuz-6.12.1-demo", data: "MZ kernel"},
			member{name: "./lib/modules/6.12.1-demo/kernel/a.ko.xz", data: fakeModule(t, "depends=")}))
	zipOf(t, filepath.Join(packages, "node.whl"), map[string]string{"node/bin/node": "ELF"})
	platform := Platform{Tag: "any", SHA256: strings.Repeat("0", 64)}
	base := Base{
		Name: "base", Suite: "stable", Epoch: 1, Packages: []string{"git"},
		Wheels: []Wheel{{
			Name: "node", Version: "24.1.0", Platforms: map[string]Platform{"amd64": platform, "arm64": platform},
			Paths: []WheelPath{{From: "node/bin/node", To: "/usr/local/bin/node"}},
		}},
		Kernel: KernelSource{StandIn: "Demo", Modules: []string{"a"}, Packages: map[string]string{"amd64": "linux-demo", "arm64": "linux-demo"}},
		Recipe: preset.Recipe{Steps: []preset.Step{{Name: "user", Run: "useradd agent"}}},
	}
	machines := &fakeMachines{}
	return New(Options{
		Cache: dir, Base: base, Runner: run, Sink: event.Discard{}, Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Machines: func(string) (Machines, error) { return machines, nil },
		Agent:    func(string) ([]byte, error) { return []byte("agent"), nil },
	}), machines
}

func demoRequest() Request { return Request{Arch: "amd64", Presets: []preset.Preset{demoPreset()}} }

func TestBuildFromNothingAndAgain(t *testing.T) {
	dir := t.TempDir()
	b, machines := newBuilder(t, dir)
	built, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if len(machines.specs) != 2 || machines.specs[0].Mode != wire.ModeBootstrap || machines.specs[1].Mode != wire.ModeBuild {
		t.Fatalf("sandboxes: %+v", machines.specs)
	}
	if layers := machines.specs[1].Image.Layers; len(layers) != 1 || layers[0].Name != "base" {
		t.Errorf("the preset stands on %+v", layers)
	}
	image := built[0]
	if image.Kernel.Record.Version != "6.12.1-demo" || image.Layer.Record.Version != "1.2.3" {
		t.Errorf("records: kernel %+v, layer %+v", image.Kernel.Record, image.Layer.Record)
	}
	var names []string
	for _, in := range image.Base.Record.Inputs {
		names = append(names, in.Name+" "+in.Version)
	}
	if diff := cmp.Diff([]string{"linux-image-6.12.1-demo 6", "node 24.1.0"}, names); diff != "" {
		t.Errorf("inputs of the base: %s", diff)
	}
	again, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if len(machines.specs) != 2 {
		t.Error("an unchanged request was built again")
	}
	if diff := cmp.Diff(built, again); diff != "" {
		t.Error(diff)
	}
}

func TestPlanSaysWhatIsCached(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	before, err := b.Plan(demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if before.Kernel.Cached || before.Base.Cached || before.Layers[0].Cached {
		t.Errorf("an empty cache has %+v", before)
	}
	if _, err := b.Build(t.Context(), demoRequest()); err != nil {
		t.Fatal(err)
	}
	if same, err := b.Plan(demoRequest()); err != nil || !same.Kernel.Cached || !same.Base.Cached || !same.Layers[0].Cached {
		t.Errorf("after the build: %+v %v", same, err)
	}
	changed := demoRequest()
	changed.Presets[0].Recipe.Steps[0].Run = "npm install demo@1.2.3 --omit=dev"
	after, err := b.Plan(changed)
	if err != nil {
		t.Fatal(err)
	}
	if !after.Kernel.Cached || !after.Base.Cached || after.Layers[0].Cached || after.Layers[0].Key == before.Layers[0].Key {
		t.Errorf("after a change of the preset's recipe: %+v", after)
	}
	var text strings.Builder
	if err := after.Write(&text); err != nil || strings.Count(text.String(), "in the cache") != 2 {
		t.Errorf("%v\n%s", err, text.String())
	}
	b.base.Packages = append(b.base.Packages, "jq")
	if moved, err := b.Plan(demoRequest()); err != nil || moved.Base.Key == before.Base.Key || moved.Layers[0].Key == before.Layers[0].Key {
		t.Errorf("another base changes base and layer: %+v %v", moved, err)
	}
}

func TestPlanRefuses(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	if _, err := b.Plan(Request{Arch: "riscv64"}); fault.CodeOf(err) != fault.Usage {
		t.Errorf("architecture: %v", err)
	}
	if _, err := b.Plan(Request{Arch: "amd64", Presets: []preset.Preset{{Name: "empty"}}}); fault.CodeOf(err) != fault.Usage {
		t.Errorf("no recipe: %v", err)
	}
}

func TestInterruptedBuildLeavesNothingToAccept(t *testing.T) {
	dir := t.TempDir()
	b, machines := newBuilder(t, dir)
	machines.fail = errors.New("power cut")
	if _, err := b.Build(t.Context(), demoRequest()); !errors.Is(err, machines.fail) {
		t.Fatalf("error %v", err)
	}
	plan, err := b.Plan(demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if plan.Base.Cached || !plan.Kernel.Cached {
		t.Errorf("after the base failed: %+v", plan)
	}
	machines.fail = nil
	if _, err := b.Build(t.Context(), demoRequest()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "work")); err == nil {
		t.Error("the work folder is still there")
	}
}

func TestTwoBuildsAtOnceDoTheWorkOnce(t *testing.T) {
	dir := t.TempDir()
	first, machines := newBuilder(t, dir)
	second, _ := newBuilder(t, dir)
	second.machines = first.machines
	var group sync.WaitGroup
	for _, b := range []*Builder{first, second} {
		group.Go(func() {
			if _, err := b.Build(t.Context(), demoRequest()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(machines.specs) != 2 {
		t.Errorf("%d sandboxes for two equal builds, want 2", len(machines.specs))
	}
}

func TestWaitForAnotherBuildCanBeCancelled(t *testing.T) {
	dir := t.TempDir()
	b, _ := newBuilder(t, dir)
	release, err := b.cache.open(t.Context(), event.Discard{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Build(ctx, demoRequest()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	release()
}

func TestDamagedCacheIsTold(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	built, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(built[0].Base.Dir, assetsFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Build(t.Context(), demoRequest()); err == nil {
		t.Error("nothing was said")
	}
}

func TestRecordsAreJSON(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	built, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(built[0].Layer.Dir, recordFile))
	var r Record
	if err != nil || json.Unmarshal(raw, &r) != nil || r.Key == "" || r.Agent == "" {
		t.Errorf("record %s: %v", raw, err)
	}
}
