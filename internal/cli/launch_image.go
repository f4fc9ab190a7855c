package cli

import (
	"context"
	"fmt"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
)

// obtain brings the preset's image into the cache: the published one, or one that
// is built here where none is published or none is wanted.
func (l *launch) obtain(ctx context.Context) (manifest.Row, record.Image, lease, error) {
	found, row, why, err := l.find(ctx)
	if err != nil {
		return row, record.Image{}, nil, err
	}
	if err := l.worthwhile(ctx, found, row, why); err != nil {
		return row, record.Image{}, nil, err
	}
	if why != "" {
		return l.app.BuildHere(ctx, localBuild{found: found, preset: l.preset, machine: l.machine, why: why, verbose: l.options.Verbose, policy: buildPolicy(l.policy)})
	}
	defer l.app.whenInterrupted(ctx, resumeHint)()
	image, lease, err := l.app.Pull(ctx, found, row, false)
	return row, image, lease, err
}

// worthwhile refuses a VMM that cannot start the sandbox, where minutes would be
// spent on an image first. One that is in the cache is started at once, and the
// failure says the same.
func (l *launch) worthwhile(ctx context.Context, found resolve.Catalogue, row manifest.Row, why string) error {
	if why != "" {
		b := localBuild{app: l.app, found: found, preset: l.preset, machine: l.machine}
		if row, there := b.foundation(); there && l.app.Built(b, row) {
			return nil
		}
		return l.app.Sound(ctx, l.machine)
	}
	plan, err := found.Plan(ctx, row, inventory(l.app.Lookup))
	if err != nil || plan.Fetch == 0 {
		return err
	}
	return l.app.Sound(ctx, l.machine)
}

// find looks for the published image, or says why one is built here.
func (l *launch) find(ctx context.Context) (found resolve.Catalogue, row manifest.Row, why string, err error) {
	c, err := l.app.Config()
	if err != nil {
		return found, row, "", err
	}
	// What is built here anyway needs no catalogue: it only spares building the base.
	if resolve.Address(c) != "" || c.UsePublished && !l.preset.Unpublished {
		if found, err = l.app.Catalogue(ctx); err != nil {
			return found, row, "", err
		}
	}
	row, there := found.Find(l.preset.Name, l.machine.arch, l.machine.vmm)
	if !there && c.UsePublished {
		if row, there, err = l.insteadOfBuilding(found); err != nil {
			return found, row, "", err
		}
	}
	return found, row, whyLocal(l.preset, l.machine, there, c.UsePublished), nil
}

// insteadOfBuilding finds the image for QEMU where none is published for a Firecracker
// that was not asked for: to be on QEMU costs less than to build an image.
func (l *launch) insteadOfBuilding(found resolve.Catalogue) (row manifest.Row, there bool, err error) {
	if row, there = found.Find(l.preset.Name, l.machine.arch, config.QEMU); !there || l.machine.vmm != config.Firecracker || l.machine.named {
		return manifest.Row{}, false, nil
	}
	_ = l.machine.doubt(fmt.Errorf("release %s has no image of %s for it", found.Manifest.Release, l.preset.Name)) // takes over
	return row, true, l.app.ableInstead(l.machine)
}
