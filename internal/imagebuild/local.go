package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
)

// LocalRelease is the release of what was built on this computer for itself.
const LocalRelease = "local"

// Foundation is what a local build stands on: a published kernel and base, which
// are in the store.
type Foundation struct {
	Arch   string
	Image  record.Image // boots the base and nothing above it
	Kernel manifest.Kernel
	Base   manifest.Asset
}

// Local is an image that was built here for this computer alone: nobody signed
// it, and its row is believed because the build made it.
type Local struct {
	Row manifest.Row // without a VMM
	Dir string       // holds the files that the row's own layer names, or all of them
}

// LocalStep says whether the preset's layer on that foundation is in the cache.
func (b *Builder) LocalStep(f Foundation, p preset.Preset) Step {
	return b.step(kindLayer, p.Name, layerInputs{
		Base: f.Base.Content.SHA256, Check: p.Agent, Recipe: p.Recipe, Clean: cleanScript,
	})
}

// BuildOn builds the preset's layer on a published base, unless the cache holds
// it. Two at once do the work once: the second waits and finds it done.
func (b *Builder) BuildOn(ctx context.Context, f Foundation, p preset.Preset) (Local, error) {
	local, err := b.layerOn(ctx, f, p)
	return local, stored(b.cache.dir, "SMOLVM_BUILD_CACHE names another folder.", err)
}

func (b *Builder) layerOn(ctx context.Context, f Foundation, p preset.Preset) (l Local, err error) {
	if err := checkLocks(p); err != nil {
		return Local{}, err
	}
	release, err := b.cache.open(ctx, b.sink)
	if err != nil {
		return Local{}, err
	}
	defer func() { err = errors.Join(err, release()) }()
	step := b.LocalStep(f, p)
	if !step.Cached {
		if err := b.buildOn(ctx, step, f, p); err != nil {
			return Local{}, err
		}
	}
	layer, err := b.archive(ctx, step, p.Name)
	if err != nil {
		return Local{}, err
	}
	return Local{Row: rowOf(p, f.Arch, f.Kernel, f.Base, layer.Assets[0]), Dir: layer.Dir}, nil
}

func (b *Builder) buildOn(ctx context.Context, step Step, f Foundation, p preset.Preset) error {
	machines, err := b.cleanMachines(ctx)
	if err != nil {
		return err
	}
	timed := b.timing(p.Name)
	if err := timed.buildLayer(ctx, step, f.Arch, f.Image, p, machines); err != nil {
		return err
	}
	return timed.sink.(*stopwatch).keep()
}

// BuildWhole builds kernel, base and layer: where no base is published.
func (b *Builder) BuildWhole(ctx context.Context, arch string, p preset.Preset) (Local, error) {
	timed := b.timing(p.Name + "-whole")
	images, err := timed.Build(ctx, Request{Arch: arch, Presets: []preset.Preset{p}})
	if err != nil {
		return Local{}, err
	}
	if err := timed.sink.(*stopwatch).keep(); err != nil {
		return Local{}, err
	}
	image := images[0]
	kernel := Publication{Base: b.base}.kernel(image.Kernel)
	l := Local{Row: rowOf(p, arch, kernel, image.Base.Assets[0], image.Layer.Assets[0])}
	l.Dir, err = b.gather(image)
	return l, err
}

// rowOf is the row of an image, without a VMM and the files that describe it.
func rowOf(p preset.Preset, arch string, kernel manifest.Kernel, base, layer manifest.Asset) manifest.Row {
	r := p.Resources
	return manifest.Row{
		Preset: p.Name, Arch: arch, Agent: manifest.Agent{Name: p.Agent.Name, Version: p.Agent.Version},
		Kernel: kernel, Layers: []manifest.Asset{base, layer},
		Resources: manifest.Resources{CPUs: r.CPUs, MemoryMiB: r.MemoryMiB, DiskMiB: r.DiskMiB},
	}
}

// gather shows the files of an image in one folder, as hard links.
func (b *Builder) gather(image Image) (string, error) {
	dir := b.cache.path("local", image.Layer.Record.Key)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, file := range image.published() {
		if err := os.Link(file.path, filepath.Join(dir, file.File)); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("gather what was built: %w", err)
		}
	}
	return dir, nil
}
