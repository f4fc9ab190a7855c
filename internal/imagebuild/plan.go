package imagebuild

import (
	"fmt"
	"io"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

// Request is what is to be built: presets for one architecture.
type Request struct {
	Arch    string
	Presets []preset.Preset
	// Kernel is the folder that kernel/build left; "": a distribution's stands in.
	Kernel string
	// Unlocked takes the base's packages as the archive has them today, where it does
	// not have those that are locked any more.
	Unlocked bool

	outrun bool // the archive does not have them
}

// Step is one result of a build.
type Step struct {
	Kind   string `json:"kind"` // kernel, base, layer
	Name   string `json:"name"`
	Key    string `json:"key"`    // digest of everything the result is made from
	Cached bool   `json:"cached"` // nothing has to be done
}

// Plan is what a build will do, in order. It is only a value: making one
// downloads and writes nothing.
type Plan struct {
	Arch   string `json:"arch"`
	Kernel Step   `json:"kernel"`
	Base   Step   `json:"base"`
	Layers []Step `json:"layers"`

	kernelDir string   // of our own kernel; empty: the stand-in
	lock      []Locked // the base's packages; nil: as the archive has them
}

// kernelFiles are the files of the kernel's step: our own has no modules.
func (p Plan) kernelFiles() []string {
	if p.kernelDir != "" {
		return []string{"kernel"}
	}
	return []string{"kernel", "modules"}
}

// Kinds of results.
const (
	kindKernel = "kernel"
	kindBase   = "base"
	kindLayer  = "layer"
)

// Plan says what building the request takes.
func (b *Builder) Plan(req Request) (Plan, error) {
	if err := CheckArch(req.Arch); err != nil {
		return Plan{}, err
	}
	if err := b.base.Validate(); err != nil {
		return Plan{}, err
	}
	kernel, err := b.kernelStep(req)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Arch: req.Arch, Kernel: kernel, kernelDir: req.Kernel, lock: b.base.lock(req)}
	layer := b.base
	layer.Kernel = KernelSource{}
	plan.Base = b.step(kindBase, b.base.Name, baseInputs{
		Arch: req.Arch, Base: layer, Lock: plan.lock, Configure: configureScript, Clean: cleanScript,
	})
	for _, p := range req.Presets {
		if len(p.Recipe.Steps) == 0 {
			return Plan{}, fault.New(fault.Usage, "", "preset %s has no recipe", p.Name)
		}
		plan.Layers = append(plan.Layers, b.step(kindLayer, p.Name, layerInputs{
			Base: plan.Base.Key, Check: p.Agent, Recipe: p.Recipe, Clean: cleanScript,
		}))
	}
	return plan, nil
}

// The inputs of a key: whatever changes the result, and nothing else. The guest
// agent that extracts and packs is not one of them, so that a new agent does not
// mean new images: format says in which way layers are made.
type (
	kernelInputs struct {
		Arch, Suite string
		Form        string // in which the image is published
		Kernel      KernelSource
	}
	ownKernelInputs struct {
		Arch   string
		Kernel Input
	}
	baseInputs struct {
		Arch             string
		Base             Base
		Lock             []Locked
		Configure, Clean string
	}
	layerInputs struct {
		Base   string // key, which holds the epoch too
		Check  preset.Agent
		Recipe preset.Recipe
		Clean  string
	}
)

func (b *Builder) kernelStep(req Request) (Step, error) {
	if req.Kernel != "" {
		k, err := readOwnKernel(req.Kernel, req.Arch)
		return b.step(kindKernel, "kernel", ownKernelInputs{Arch: req.Arch, Kernel: k.input}), err
	}
	source := b.base.Kernel
	source.CommandLine, source.OwnCommandLine, source.StandIn = "", "", "" // they go into the manifest, not into the files
	return b.step(kindKernel, "kernel", kernelInputs{
		Arch: req.Arch, Suite: b.base.Suite, Form: "unpacked", Kernel: source,
	}), nil
}

func (b *Builder) step(kind, name string, inputs any) Step {
	key := contentKey(inputs)
	cached := b.cache.has(kind, key)
	if kind == kindLayer {
		cached = cached || b.cache.has(archiveKind(kind), key) || b.cache.has(bestKind(kind), key) // all that is kept of a layer
	}
	return Step{Kind: kind, Name: name, Key: key, Cached: cached}
}

// Write prints the plan, a line for each step.
func (p Plan) Write(w io.Writer) error {
	for _, s := range append([]Step{p.Kernel, p.Base}, p.Layers...) {
		state := "build"
		if s.Cached {
			state = "in the cache"
		}
		if _, err := fmt.Fprintf(w, "%-7s %-12s %s %s  %s\n", s.Kind, s.Name, p.Arch, s.Key[:12], state); err != nil {
			return err
		}
	}
	return nil
}
