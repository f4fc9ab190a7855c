package cli

import (
	"context"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
)

// pull brings an image of the catalogue into the cache.
func (a *App) pull(ctx context.Context, found resolve.Catalogue, row manifest.Row, keep bool) (record.Image, lease, error) {
	images, err := a.openStore()
	if err != nil {
		return record.Image{}, nil, err
	}
	plan, err := found.Plan(ctx, row, images)
	if err != nil {
		return record.Image{}, nil, err
	}
	places, begun := a.source().Mirrors(plan.Places, a.Progress()), a.Now()
	image, held, err := acquire.New(images, places, a.Progress(), a.Now).Run(ctx, plan, acquire.Options{KeepArchive: keep})
	if err != nil {
		return record.Image{}, nil, err
	}
	a.measured(plan.Fetch, a.Now().Sub(begun))
	return image, held, nil
}

// intact makes sure that what a sandbox boots is still what was verified.
func (a *App) intact(ctx context.Context, image record.Image) error {
	images, err := a.openStore()
	if err != nil {
		return err
	}
	var places acquire.Places // none: altered files are named, not repaired
	if image.Address != "" {
		c, err := a.Config()
		if err != nil {
			return err
		}
		addresses := []string{image.Address}
		if published := resolve.Address(c); image.Release == imagebuild.LocalRelease && published != "" {
			addresses = append(addresses, published) // the base of what was built here
		}
		if known, there := c.Catalogue(image.Address); there {
			for _, mirror := range known.Mirrors {
				if address, err := resolve.Complete(mirror); err == nil {
					addresses = append(addresses, address)
				}
			}
		}
		places = a.source().Mirrors(addresses, a.Progress())
	}
	return acquire.New(images, places, a.Progress(), a.Now).Check(ctx, image)
}

// cached lists the images in the cache.
func (a *App) cached() ([]store.Image, error) {
	images, err := a.openStore()
	if err != nil {
		return nil, err
	}
	list, err := images.Images()
	if list == nil {
		list = []store.Image{} // JSON has an empty array for it, not null
	}
	return list, err
}

// lookup tells what is in the cache of one asset.
func (a *App) lookup(ctx context.Context, key string) (store.Object, error) {
	images, err := a.openStore()
	if err != nil {
		return store.Object{}, err
	}
	return images.Lookup(ctx, key)
}

// giveUp ends leases. An image that is held too long is only worth a warning:
// the end of the process gives it up.
func (a *App) giveUp(leases ...lease) {
	for _, lease := range leases {
		if err := lease.Release(); err != nil {
			a.warn("give up the hold on an image: %v", err)
		}
	}
}

func (a *App) openStore() (*store.Store, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	return store.Open(c.Home, store.Waiting(func(string) func() {
		done := event.Span(a.Progress(), a.Now, event.Wait, "for the cache")
		return func() { done(0) }
	}))
}
