package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// fakeMachines "runs" build sandboxes: the packed layer has the list of what ran,
// and some software.
type fakeMachines struct {
	mkfs  string // path of the tool
	mu    sync.Mutex
	specs []MachineSpec
	fail  error // of the next sandbox
}

func (f *fakeMachines) Clean(context.Context) error { return nil }

func (f *fakeMachines) Run(ctx context.Context, spec MachineSpec, work func(context.Context, Session) error, blank string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, spec)
	if err := os.Truncate(blank, 2<<20); err != nil {
		return err
	}
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
	files := map[string]string{"ran": strings.Join(s.ran, "\n")}
	for name, text := range installed(spec.Mode) {
		files[name] = text
	}
	return packTree(f.mkfs, blank, files)
}

// installed is what a base or a preset's layer has installed.
func installed(mode wire.Mode) map[string]string {
	if mode == wire.ModeBuild {
		return map[string]string{
			"opt/demo/node_modules/demo/package.json":            `{"name":"demo","version":"1.2.3","license":"SEE LICENSE IN README.md"}`,
			"opt/demo/node_modules/@demo/lib/package.json":       `{"name":"@demo/lib","version":"0.1.0","license":"(MIT or apache-2.0)"}`,
			"opt/demo/node_modules/demo/esm/package.json":        `{"type":"module"}`,
			"opt/venv/lib/demo_py-2.0.dist-info/METADATA":        "Metadata-Version: 2.4\nName: Demo.Py\nVersion: 2.0\nLicense-Expression: BSD-3-Clause\n\nName: text\n",
			"usr/local/lib/node_modules/npm/package.json":        `{"name":"npm","version":"12.0.0","license":"Artistic-2.0"}`,
			"usr/share/doc/demo/copyright-of-something-else":     "GPL",
			"opt/demo/node_modules/broken/package.json":          `{`,
			"opt/demo/node_modules/@demo/lib/x/METADATA":         "Name: no\nVersion: 1\n",
			"usr/lib/python3/dist-packages/a.dist-info/METADATA": "Name: no\nVersion: 1\n",
		}
	}
	return map[string]string{
		"usr/lib/os-release": "NAME=Demo\nID=\"demian\"\n",
		"var/lib/dpkg/status": libDemoInstalled + "\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n\n" + gitInstalled +
			"\nPackage: libdemo-dev\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nSource: demo (1)\n",
		"usr/share/doc/libdemo1/copyright":            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+ or Artistic\n\nFiles: b\nLicense: Expat\n\nFiles: c\nLicense: odd+\n\nLicense: GPL-2+ or Artistic\n The text.\n",
		"usr/share/doc/git/copyright":                 "On Debian systems the licence is in /usr/share/common-licenses/GPL-2.\n",
		"usr/local/lib/node_modules/npm/package.json": `{"name":"npm","version":"11.0.0","license":"Artistic-2.0"}`,
	}
}

const (
	libDemoInstalled = "Package: libdemo1\nStatus: install ok installed\nVersion: 1:2.0-3+b1\nArchitecture: amd64\nSource: demo (1:2.0-3)\nDescription: demo\n more: of it\n"
	gitInstalled     = "Package: git\nStatus: install ok installed\nVersion: 2.47\nArchitecture: amd64\n"
)

// mkfsTool finds mkfs.ext4, which ordinary users do not have in their path.
func mkfsTool(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/opt/homebrew/opt/e2fsprogs/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, "mkfs.ext4")); err == nil {
			return filepath.Join(dir, "mkfs.ext4")
		}
	}
	t.Skip("mkfs.ext4 is missing: install e2fsprogs")
	return ""
}

// packTree writes files as the file system of a layer.
func packTree(mkfs, path string, files map[string]string) error {
	tree, err := os.MkdirTemp(filepath.Dir(path), "tree-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	for name, text := range files {
		file := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	const fixed = "00000000-0000-4000-8000-000000000000"
	cmd := exec.Command(mkfs, "-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode", "-U", fixed,
		"-E", "hash_seed="+fixed+",root_owner=0:0", "-d", tree, path)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
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
		Name: "base", Suite: "stable", Epoch: 1, Packages: []string{"linux-image-6.12.1-demo"}, Locks: demoLocks(),
		Wheels: []Wheel{{
			Name: "node", Version: "24.1.0", License: "MIT", Platforms: map[string]Platform{"amd64": platform, "arm64": platform},
			Paths: []WheelPath{{From: "node/bin/node", To: "/usr/local/bin/node"}},
		}},
		Kernel: KernelSource{StandIn: "Demo", Modules: []string{"a"}, Packages: map[string]string{"amd64": "linux-demo", "arm64": "linux-demo"}},
		Recipe: preset.Recipe{Steps: []preset.Step{{Name: "user", Run: "useradd agent"}}},
	}
	machines := &fakeMachines{mkfs: mkfsTool(t)}
	return New(Options{
		Cache: dir, Base: base, Runner: run, Sink: event.Discard{}, Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Machines: func(string) (Machines, error) { return machines, nil },
		Agent:    func(string) ([]byte, error) { return []byte("agent"), nil },
	}), machines
}

// demoLocks lock the package of newBuilder.
func demoLocks() map[string][]Locked {
	const name = "linux-image-6.12.1-demo" // which is what is in its file, too
	lock := []Locked{{Name: name, Version: "6", SHA256: hexSum(name)}}
	return map[string][]Locked{"amd64": lock, "arm64": lock}
}

func hexSum(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

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
	b.base.Locks["amd64"] = append(b.base.Locks["amd64"], Locked{Name: "jq", Version: "1", SHA256: hexSum("jq")})
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

// TestBestCompression packs a layer again of which the cache has the fast archive,
// and from then on uses that one.
func TestBestCompression(t *testing.T) {
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip("zstd is missing: install zstd")
	}
	b, machines := newBuilder(t, t.TempDir())
	fast, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	b.best = true
	best, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	for i, one := range []Archived{best[0].Kernel, best[0].Base, best[0].Layer} {
		other := []Archived{fast[0].Kernel, fast[0].Base, fast[0].Layer}[i].Assets[0]
		asset := one.Assets[0]
		if asset.Content != other.Content || asset.Archive == other.Archive {
			t.Errorf("%s: %+v became %+v", asset.Name, other, asset)
		}
		tool := one.Record.Tools[len(one.Record.Tools)-1]
		if tool.Name != encoderName || !strings.Contains(tool.Version, "level 19") {
			t.Errorf("%s was packed by %+v", asset.Name, one.Record.Tools)
		}
	}
	b.best = false
	again, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(best[0].Layer, again[0].Layer); diff != "" || len(machines.specs) != 2 {
		t.Errorf("%d sandboxes, and %s", len(machines.specs), diff)
	}
}

// What was not in the cache before says which tools made it.
func TestRecordsNameTools(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	b.revision = "abc123"
	image, err := b.Build(t.Context(), demoRequest())
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range image[0].steps() {
		if rec.Revision != "abc123" || len(rec.Tools) == 0 || !strings.Contains(rec.Tools[len(rec.Tools)-1].Version, "klauspost") {
			t.Errorf("%s: revision %q, tools %+v", rec.Name, rec.Revision, rec.Tools)
		}
	}
}
