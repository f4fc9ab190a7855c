package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// Machines runs build sandboxes.
type Machines interface {
	// Run boots a sandbox, hands its session to work, stops it in order, and has
	// what was written in it packed as a file system into the file blank, whose
	// size becomes that of the file system. Nothing of the sandbox stays.
	Run(ctx context.Context, spec MachineSpec, work func(context.Context, Session) error, blank string) error
	// Clean removes what an interrupted build left running or on disk.
	Clean(ctx context.Context) error
}

// MachineSpec is one build sandbox.
type MachineSpec struct {
	Name      string
	Arch      string
	Image     record.Image // without layers in bootstrap mode
	Mode      wire.Mode    // build or bootstrap
	Extra     string       // bootstrap: path of the root archive
	Epoch     int64        // seconds since 1970: no file of the layer is newer
	Resources preset.Resources
}

// Options are what a Builder works with.
type Options struct {
	Cache    string // folder of the build cache, absolute
	Base     Base
	Runner   *process.Runner
	Machines func(home string) (Machines, error) // sandboxes below a state folder of their own
	Agent    func(arch string) ([]byte, error)   // the guest agent's bytes
	Revision string                              // of SmolVM's sources, for the build record
	Best     bool                                // archives of the fewest bytes, which takes minutes
	Sink     event.Sink
	Now      func() time.Time
	// Output gets what the recipes print, which the log has anyway; nil: nobody.
	Output io.Writer
}

// Builder builds images into its cache.
type Builder struct {
	cache    cache
	base     Base
	run      *process.Runner
	machines func(home string) (Machines, error)
	agent    func(arch string) ([]byte, error)
	revision string
	best     bool
	sink     event.Sink
	now      func() time.Time
	output   io.Writer
}

// New makes a Builder. It touches nothing.
func New(o Options) *Builder {
	b := &Builder{
		cache: cache{o.Cache}, base: o.Base, run: o.Runner, machines: o.Machines,
		agent: o.Agent, revision: o.Revision, best: o.Best, sink: o.Sink, now: o.Now, output: io.Discard,
	}
	if o.Output != nil {
		b.output = o.Output
	}
	return b
}

func (b *Builder) agentDigest(arch string) (string, error) {
	raw, err := b.agent(arch)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// Image is one built image: everything a manifest row needs, and where it is.
type Image struct {
	Preset preset.Preset
	Arch   string
	Kernel Archived
	Base   Archived
	Layer  Archived
	Sizes  []Size // of the kernel's files and the layers, in the order of a boot
	SBOM   []byte // SPDX 2.3 in JSON
}

// publishedFile is a file of an image, and where the cache has it.
type publishedFile struct {
	path string
	manifest.Blob
}

// published are the files of the kernel and the layers.
func (i Image) published() (files []publishedFile) {
	for _, a := range []Archived{i.Kernel, i.Base, i.Layer} {
		for _, asset := range a.Assets {
			for _, blob := range []manifest.Blob{asset.Archive, asset.Index} {
				files = append(files, publishedFile{filepath.Join(a.Dir, blob.File), blob})
			}
		}
	}
	return files
}

// Size is what one published file of an image takes.
type Size struct {
	Name       string `json:"name"`
	Compressed int64  `json:"compressed_bytes"` // of the archive
	Expanded   int64  `json:"expanded_bytes"`   // of the file
	Allocated  int64  `json:"allocated_bytes"`  // of its blocks that are not zero
	Free       int64  `json:"free_bytes"`       // of a layer's blocks that no file has
}

// Archived is a step's published form in the cache.
type Archived struct {
	Dir    string           // holds the files the assets name
	Assets []manifest.Asset // in the order they were made
	Record Record
}

// Record says what a step's result was made from.
type Record struct {
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Arch    string    `json:"arch"`
	Key     string    `json:"key"`
	Built   time.Time `json:"built"`
	Version string    `json:"version,omitempty"` // uname -r of a kernel, version of an agent
	Agent   string    `json:"guest_agent,omitempty"`
	Source  string    `json:"source,omitempty"` // of our own kernel
	// Revision is that of SmolVM's sources, Tools what ran on the host: both as they
	// were when the step was done, which the cache may remember from long ago.
	Revision string  `json:"revision,omitempty"`
	Tools    []Tool  `json:"tools,omitempty"`
	Inputs   []Input `json:"inputs,omitempty"` // lock files included, which name the digests of all that they lock
}

// Input is one file that a result was made from.
type Input struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size,omitempty"`
}

// Tool is a program that had a part in a result.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"` // as it says itself
}

// Build builds what the request asks for and the cache does not hold. Presets
// come back in the order of the request.
func (b *Builder) Build(ctx context.Context, req Request) ([]Image, error) {
	images, err := b.build(ctx, req)
	return images, stored(b.cache.dir, "SMOLVM_BUILD_CACHE names another folder.", err)
}

func (b *Builder) build(ctx context.Context, req Request) (images []Image, err error) {
	release, err := b.cache.open(ctx, b.sink)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	images, err = b.attempt(ctx, req)
	if req.Unlocked && errors.Is(err, errOutrun) {
		b.sink.Emit(event.Event{Time: b.now(), Kind: event.Warning, Text: "The base is built from Debian's packages of today, not from those locked: " + err.Error()})
		req.outrun = true
		return b.attempt(ctx, req)
	}
	return images, err
}

// attempt builds, of the base's packages, those locked or those of today.
func (b *Builder) attempt(ctx context.Context, req Request) (images []Image, err error) {
	plan, err := b.Plan(req)
	if err != nil {
		return nil, err
	}
	machines, err := b.cleanMachines(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.foundation(ctx, plan, machines); err != nil {
		return nil, err
	}
	if images, err = b.layers(ctx, req, plan, machines); err != nil {
		return nil, err
	}
	for i := range images {
		if err := b.describe(ctx, plan, i, &images[i]); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// cleanMachines gives build sandboxes of which none is left from earlier.
func (b *Builder) cleanMachines(ctx context.Context) (Machines, error) {
	machines, err := b.machines(filepath.Join(b.cache.dir, "home"))
	if err != nil {
		return nil, err
	}
	if err := machines.Clean(ctx); err != nil {
		return nil, fmt.Errorf("remove what an earlier build left: %w", err)
	}
	return machines, nil
}

// foundation builds the kernel and the base. Their downloads run side by side.
func (b *Builder) foundation(ctx context.Context, plan Plan, machines Machines) error {
	if err := b.equipped(plan); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	var root string
	group.Go(func() error { return b.ensureKernel(groupCtx, plan) })
	if !plan.Base.Cached {
		group.Go(func() (err error) {
			root, err = b.downloadBase(groupCtx, plan)
			return err
		})
	}
	if err := group.Wait(); err != nil || plan.Base.Cached {
		return err
	}
	return b.buildBase(ctx, plan, root, machines)
}

// equipped refuses to begin a base that this computer has not the programs for.
func (b *Builder) equipped(plan Plan) error {
	if plan.Base.Cached {
		return nil
	}
	for _, tool := range BaseTools() {
		if _, err := b.run.Find(tool); err != nil {
			return fault.New(fault.Host, fault.HintOf(err)+". A base is built on Debian and Ubuntu; elsewhere use a catalogue with images for this computer.",
				"build the base: %w", err)
		}
	}
	return nil
}

// layers builds the presets' layers while the files below them are compressed.
func (b *Builder) layers(ctx context.Context, req Request, plan Plan, machines Machines) ([]Image, error) {
	images := make([]Image, len(req.Presets))
	var kernel, base Archived
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if kernel, err = b.archive(ctx, plan.Kernel, plan.kernelFiles()...); err != nil {
			return err
		}
		base, err = b.archive(ctx, plan.Base, b.base.Name)
		return err
	})
	group.Go(func() error {
		for i, p := range req.Presets {
			if err := b.ensureLayer(ctx, plan, plan.Layers[i], p, machines); err != nil {
				return err
			}
			layer, err := b.archive(ctx, plan.Layers[i], p.Name)
			if err != nil {
				return err
			}
			images[i] = Image{Preset: p, Arch: req.Arch, Layer: layer}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range images {
		images[i].Kernel, images[i].Base = kernel, base
	}
	return images, nil
}

// image is what a build sandbox boots: the kernel and the layers named.
func (b *Builder) image(plan Plan, layers ...record.Layer) (record.Image, error) {
	dir := b.cache.path(kindKernel, plan.Kernel.Key)
	rec, err := readRecord(dir)
	if err != nil {
		return record.Image{}, err
	}
	image := record.Image{
		Release: "build", Kernel: filepath.Join(dir, "kernel"), KernelVersion: rec.Version,
		CommandLine: b.base.Kernel.OwnCommandLine, Layers: layers,
	}
	if plan.kernelDir == "" {
		image.StandIn, image.CommandLine = b.base.Kernel.StandIn, b.base.Kernel.CommandLine
		image.Modules = filepath.Join(dir, "modules")
	}
	return image, nil
}
