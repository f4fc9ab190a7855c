// Package acquire carries a plan out: it downloads, verifies and unpacks what is
// missing, adopts it into the store, and hands back the paths to boot from.
//
// Input is a plan and the places that publish its files; output are verified
// files in the store, and a lease that they stay. A frame is written only after
// its digest was compared, wherever it comes from: the network, an interrupted
// run, another version of the image, a damaged file that is repaired. One process
// works on an asset at a time, others follow it and take over if it dies.
//
// After a crash at any moment the partials hold what was written. The next run
// looks which of their frames are right and goes on with the rest; nobody boots
// from a partial.
package acquire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
)

// Places publish the files, each of which several may have. Open and Get go from
// one to the next by themselves and return an error only when all have failed.
type Places interface {
	Open(ctx context.Context, file string, span fetch.Span) (*fetch.Stream, error)
	Get(ctx context.Context, file string, limit int64, check func([]byte) error) ([]byte, error)
	// Strike says that a place served wrong bytes; left is whether others remain.
	Strike(place string, reason error) (left bool)
}

// Acquirer brings images here.
type Acquirer struct {
	store  *store.Store
	places Places
	sink   event.Sink
	now    func() time.Time

	runSize int64                  // how many archive bytes one request asks for
	reserve func(need int64) error // compares with the free space
}

// New makes an Acquirer that reports to sink. Without places nothing can be
// fetched, only checked.
func New(s *store.Store, places Places, sink event.Sink, now func() time.Time) *Acquirer {
	return &Acquirer{store: s, places: places, sink: sink, now: now, runSize: runSize, reserve: s.Reserve}
}

// Options are what a user may ask for.
type Options struct {
	KeepArchive bool // beside the expanded file
}

// Run makes everything in the plan be here and verified, and returns the paths,
// with the right that the files stay: the caller releases it once somebody else
// (a sandbox's record) holds them. What the plan saw is looked at again: it may
// be here by now, or gone.
func (a *Acquirer) Run(ctx context.Context, plan resolve.Plan, o Options) (record.Image, *store.Lease, error) {
	lease, err := a.store.Lease(ctx, "a download or start of "+plan.Row.Preset, keysOf(plan))
	if err != nil {
		return record.Image{}, nil, err
	}
	image, err := a.run(ctx, plan, o)
	if err != nil {
		return record.Image{}, nil, errors.Join(err, lease.Release())
	}
	return image, lease, nil
}

func (a *Acquirer) run(ctx context.Context, plan resolve.Plan, o Options) (record.Image, error) {
	if err := a.sweep(ctx); err != nil {
		return record.Image{}, err
	}
	missing, err := a.missing(ctx, plan, o)
	if err == nil && len(missing) > 0 {
		err = a.bring(ctx, missing, o, plan.MayFetch)
	}
	if err != nil {
		return record.Image{}, a.store.Explain(err)
	}
	if err := a.store.Show(ctx, viewOf(plan)); err != nil {
		if ctx.Err() != nil {
			return record.Image{}, err
		}
		a.warn("%v", err) // a view is for people; the objects are what boots
	}
	return a.image(ctx, plan)
}

// sweep removes what killed runs left; that it cannot is no reason to stop.
func (a *Acquirer) sweep(ctx context.Context) error {
	err := a.store.Sweep(ctx)
	if err != nil && ctx.Err() == nil {
		a.warn("left-over files of an earlier run stay: %v", err)
		return nil
	}
	return err
}

// missing are the plan's assets that are not Ready, each once.
func (a *Acquirer) missing(ctx context.Context, plan resolve.Plan, o Options) ([]manifest.Asset, error) {
	var missing []manifest.Asset
	seen := map[string]bool{}
	for _, step := range plan.Steps {
		key := step.Asset.Index.SHA256
		object, err := a.store.Lookup(ctx, key)
		if err != nil {
			return nil, err
		}
		if !seen[key] && (object.State != store.Ready || o.KeepArchive && object.Archive == "") {
			missing = append(missing, step.Asset)
		}
		seen[key] = true
	}
	return missing, nil
}

func keysOf(plan resolve.Plan) []string {
	var keys []string
	for _, step := range plan.Steps {
		keys = append(keys, step.Asset.Index.SHA256)
	}
	return keys
}

// image reads the paths out of the store, and with that makes the last check
// that each file is what was verified.
func (a *Acquirer) image(ctx context.Context, plan resolve.Plan) (record.Image, error) {
	kernel := plan.Row.Kernel
	image := record.Image{
		Address: plan.Address,
		Release: plan.Release, KernelVersion: kernel.Version, StandIn: kernel.StandIn, CommandLine: kernel.CommandLine,
	}
	for _, step := range plan.Steps {
		object, err := a.store.Lookup(ctx, step.Asset.Index.SHA256)
		if err != nil {
			return record.Image{}, err
		}
		if object.State != store.Ready {
			return record.Image{}, altered(object.Path, plan.Address)
		}
		switch step.Role {
		case resolve.Kernel:
			image.Kernel = object.Path
		case resolve.Modules:
			image.Modules = object.Path
		case resolve.Layer:
			image.Layers = append(image.Layers, record.Layer{Name: step.Asset.Name, Path: object.Path, SHA256: step.Asset.Content.SHA256})
		}
	}
	return image, nil
}

func viewOf(plan resolve.Plan) store.View {
	v := store.View{Release: plan.Release, Preset: plan.Row.Preset, Arch: plan.Row.Arch, VMM: plan.Row.VMM}
	extensions := map[resolve.Role]string{resolve.Modules: ".cpio", resolve.Layer: ".ext4"}
	for _, step := range plan.Steps {
		v.Files = append(v.Files, store.ViewFile{
			Name: step.Asset.Name + extensions[step.Role],
			Key:  step.Asset.Index.SHA256, Archive: step.Asset.Archive.SHA256,
		})
	}
	return v
}

func (a *Acquirer) warn(format string, args ...any) {
	a.emit(event.Event{Kind: event.Warning, Stage: event.Store, Text: fmt.Sprintf(format, args...)})
}

func (a *Acquirer) emit(e event.Event) {
	e.Time = a.now()
	a.sink.Emit(e)
}

// tell says something about an object in one line.
func (a *Acquirer) tell(object, format string, args ...any) {
	a.emit(event.Event{Kind: event.Notice, Stage: event.Fetch, Object: object, Text: fmt.Sprintf(format, args...)})
}

const (
	mirrorHint    = "Nothing of it was kept. Try again, or use another mirror."
	publisherHint = "The signed manifest and this file do not fit together: tell its publisher."
)

func mismatch(name, place string, err error) error {
	return fault.New(fault.Trust, "It was deleted and nothing booted. "+mirrorHint, "verify %s from %s: %w", name, place, err)
}

func altered(path, address string) error {
	hint := "Fetch it again with `smolvm image pull PRESET`, from the catalogue that it came from."
	if address != "" {
		hint = "Fetch it again with `smolvm --manifest " + address + " image pull PRESET`."
	}
	return fault.New(fault.Trust, hint, "check %s: its bytes are not those that were verified; it is not booted", path)
}
