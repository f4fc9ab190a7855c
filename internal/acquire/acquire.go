// Package acquire carries a plan out: it downloads, verifies and unpacks what is
// missing, adopts it into the store, and hands back the paths to boot from.
//
// A file whose bytes were not verified never gets a place in the store, and a
// file that was touched since is verified again before it is used. One process
// works on an asset at a time, others wait and take over if it dies. After a
// crash only the store's tmp holds something, which the next run removes.
package acquire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
)

// Source opens published bytes by address. Size is -1 when it is unknown.
type Source interface {
	Open(ctx context.Context, address string) (stream io.ReadCloser, size int64, err error)
	Get(ctx context.Context, address string, limit int64) ([]byte, error)
}

// Acquirer brings images here.
type Acquirer struct {
	store  *store.Store
	source Source
	sink   event.Sink
	now    func() time.Time
}

// New makes an Acquirer that reports to sink.
func New(s *store.Store, source Source, sink event.Sink, now func() time.Time) *Acquirer {
	return &Acquirer{store: s, source: source, sink: sink, now: now}
}

// Run makes everything in the plan be here and verified, and returns the paths.
// What the plan saw is looked at again: it may be here by now, or gone.
func (a *Acquirer) Run(ctx context.Context, plan resolve.Plan) (record.Image, error) {
	if err := a.store.Sweep(ctx); err != nil {
		if ctx.Err() != nil {
			return record.Image{}, err
		}
		a.warn("left-over files of an earlier run stay: %v", err)
	}
	if err := a.complete(ctx, plan); err != nil {
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

// complete gets what is missing. Claims are taken in the order of their keys, so
// that two processes never wait for each other.
func (a *Acquirer) complete(ctx context.Context, plan resolve.Plan) (err error) {
	missing, err := a.missing(ctx, plan)
	if err != nil || len(missing) == 0 {
		return err
	}
	claims := make(map[string]*store.Claim, len(missing))
	defer func() {
		for _, claim := range claims {
			err = errors.Join(err, claim.Release())
		}
	}()
	for _, key := range slices.Sorted(maps.Keys(missing)) {
		claim, err := a.store.Claim(ctx, key, func() {
			a.emit(event.Event{
				Kind: event.Notice, Stage: event.Fetch, Object: missing[key].Asset.Name,
				Text: fmt.Sprintf("another smolvm is fetching %s: waiting for it", missing[key].Asset.Name),
			})
		})
		if err != nil {
			return err
		}
		claims[key] = claim
	}
	return a.settle(ctx, plan, claims)
}

// missing are the plan's assets that are not Ready, by key.
func (a *Acquirer) missing(ctx context.Context, plan resolve.Plan) (map[string]resolve.Step, error) {
	missing := map[string]resolve.Step{}
	for _, step := range plan.Steps {
		key := step.Asset.Index.SHA256
		object, err := a.store.Lookup(ctx, key)
		if err != nil {
			return nil, err
		}
		if object.State != store.Ready {
			missing[key] = step
		}
	}
	return missing, nil
}

// settle looks at every claimed asset again (another process may have brought
// it), verifies what was touched, and fetches the rest: all indexes first, then
// the free space is known to suffice, then the archives.
func (a *Acquirer) settle(ctx context.Context, plan resolve.Plan, claims map[string]*store.Claim) error {
	var jobs []job
	var need int64
	queued := map[string]bool{}
	for _, step := range plan.Steps {
		key := step.Asset.Index.SHA256
		claim := claims[key]
		if claim == nil || queued[key] {
			continue
		}
		queued[key] = true
		absent, err := a.inspect(ctx, step, claim)
		if err != nil {
			return err
		}
		if absent {
			jobs = append(jobs, job{step: step, claim: claim})
			need += step.Asset.Archive.Size
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	if err := plan.MayFetch(); err != nil {
		return err
	}
	if err := a.store.Reserve(need); err != nil { // a lower bound, before the first byte
		return err
	}
	return a.fetchAll(ctx, jobs)
}

func (a *Acquirer) fetchAll(ctx context.Context, jobs []job) error {
	var need int64
	for i := range jobs {
		if err := a.getIndex(ctx, &jobs[i]); err != nil {
			return err
		}
		need += jobs[i].index.DataSize()
	}
	if err := a.store.Reserve(need); err != nil {
		return err
	}
	for _, j := range jobs {
		if err := a.fetch(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

// image reads the paths out of the store, and with that makes the last check
// that each file is what was verified.
func (a *Acquirer) image(ctx context.Context, plan resolve.Plan) (record.Image, error) {
	kernel := plan.Row.Kernel
	image := record.Image{
		Release: plan.Release, KernelVersion: kernel.Version, StandIn: kernel.StandIn, CommandLine: kernel.CommandLine,
	}
	for _, step := range plan.Steps {
		object, err := a.store.Lookup(ctx, step.Asset.Index.SHA256)
		if err != nil {
			return record.Image{}, err
		}
		if object.State != store.Ready {
			return record.Image{}, altered(object.Path)
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
