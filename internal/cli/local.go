package cli

import (
	"context"
	"io"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/vmm"
)

// buildHint is what a user who interrupted a local build wants to know.
const buildHint = "Nothing of the unfinished build is kept: the next start builds again."

// baseName is how the cache calls the part of an image that all presets share.
const baseName = "base"

// localBuild is an image that this computer makes for itself.
type localBuild struct {
	app     *App
	found   resolve.Catalogue // without rows where none is named
	preset  preset.Preset
	machine machine
	why     string // it is built here
	verbose bool   // show what the recipe prints
	policy  egress.Policy
}

// buildHere builds the preset's image, on a published base where there is one, and
// brings it into the cache like a downloaded one. What was built before is taken
// from the build cache.
func (a *App) buildHere(ctx context.Context, b localBuild) (manifest.Row, record.Image, lease, error) {
	b.app = a
	defer a.whenInterrupted(ctx, buildHint)()
	local, held, err := b.build(ctx)
	if held != nil {
		defer a.giveUp(held)
	}
	if err != nil {
		return manifest.Row{}, record.Image{}, nil, a.blameProxy(ctx, err, b.policy)
	}
	row := local.Row
	row.VMM = b.machine.vmm
	address := filepath.Join(local.Dir, imagebuild.ManifestFile)
	image, lease, err := a.Pull(ctx, resolve.Catalogue{
		Address: address, Places: append([]string{address}, b.found.Places...),
		Manifest: manifest.Manifest{Release: imagebuild.LocalRelease},
	}, row, false)
	return row, image, lease, err
}

// build runs the recipe on the base of any published image: all share one. The
// lease holds that base.
func (b localBuild) build(ctx context.Context) (imagebuild.Local, lease, error) {
	base, err := imagebuild.ReadBase(b.app.Presets)
	if err != nil {
		return imagebuild.Local{}, nil, err
	}
	row, there := b.foundation()
	mode := buildMode{accel: vmm.TCG, output: b.output(), policy: b.policy}
	builder, err := b.app.builder(base, mode)
	if err != nil {
		return imagebuild.Local{}, nil, err
	}
	b.tell(row, there)
	if !there {
		local, err := builder.BuildWhole(ctx, b.machine.arch, b.preset)
		return local, nil, err
	}
	image, held, err := b.base(ctx, row)
	if err != nil {
		return imagebuild.Local{}, nil, err
	}
	if mode.accel, _, err = b.app.Accel(ctx, b.machine, row, image); err == nil {
		builder, err = b.app.builder(base, mode)
	}
	if err != nil {
		return imagebuild.Local{}, held, err
	}
	local, err := builder.BuildOn(ctx, foundationOf(row, image), b.preset)
	return local, held, err
}

// tell says that something is built, and why, where it is not in the build cache.
func (b localBuild) tell(row manifest.Row, there bool) {
	if there && b.app.Built(b, row) {
		return
	}
	what := "The image of " + b.preset.Name
	if !there {
		what += ", with its base,"
	}
	b.app.notice("%s is built on this computer, once: %s.", what, b.why)
}

// builtHere tells whether the layer on the base of row is in the build cache.
func (a *App) builtHere(b localBuild, row manifest.Row) bool {
	base, err := imagebuild.ReadBase(a.Presets)
	if err != nil {
		return false // building it will tell
	}
	builder, err := a.builder(base, buildMode{accel: vmm.TCG})
	return err == nil && builder.LocalStep(foundationOf(row, record.Image{}), b.preset).Cached
}

// foundation is the part of a published row that every preset stands on.
func (b localBuild) foundation() (manifest.Row, bool) {
	for _, row := range b.found.Manifest.Rows {
		if row.Arch == b.machine.arch && row.VMM == b.machine.vmm && len(row.Layers) > 0 {
			row.Preset, row.Layers = b.preset.Name, row.Layers[:1]
			return row, true
		}
	}
	return manifest.Row{}, false
}

func foundationOf(row manifest.Row, image record.Image) imagebuild.Foundation {
	return imagebuild.Foundation{Arch: row.Arch, Image: image, Kernel: row.Kernel, Base: row.Layers[0]}
}

// base brings what the layer is built on into the cache, under the name that no preset
// can have: when the build fails, it is no image of the preset that is here.
func (b localBuild) base(ctx context.Context, row manifest.Row) (record.Image, lease, error) {
	from := b.found
	row.Preset = baseName
	from.Manifest.Release = imagebuild.LocalRelease
	return b.app.Pull(ctx, from, row, false)
}

// output is where the recipe's own output goes: to the user line by line, or only
// into the log.
func (b localBuild) output() io.Writer {
	if !b.verbose {
		return nil
	}
	return &lineWriter{say: func(line string) {
		b.app.Progress().Emit(event.Event{Time: b.app.Now(), Kind: event.Notice, Text: line})
	}}
}

// lineWriter hands on whole lines.
type lineWriter struct {
	say  func(line string)
	rest strings.Builder
}

// maxLine bounds a line that never ends, in bytes.
const maxLine = 4 << 10

// Write takes any part of any number of lines.
func (w *lineWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' && w.rest.Len() < maxLine {
			w.rest.WriteByte(c)
			continue
		}
		if line := strings.TrimSpace(w.rest.String()); line != "" {
			w.say(line)
		}
		w.rest.Reset()
	}
	return len(p), nil
}

// whyLocal says why an image is built here; empty: it is published and wanted.
func whyLocal(p preset.Preset, m machine, published, wanted bool) string {
	switch {
	case !wanted:
		return "SMOLVM_USE_PUBLISHED asks for it"
	case p.Unpublished && !published:
		return "no image of " + p.Name + " is published"
	case !published:
		return "no image of " + p.Name + " for " + m.vmm + " on " + m.arch + " is published"
	}
	return ""
}
