//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/test/catalogue"
)

// check measures what it costs to find that an image is here, and still right:
// in this process, through the rooms that a launch goes through.
func (b *bench) check(ctx context.Context) (string, error) {
	small, err := b.smallImage(ctx)
	if err != nil {
		return "", err
	}
	real, err := b.realImage()
	if err != nil {
		return "", err
	}
	made, err := b.synthetic(ctx)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("## The check before a launch\n\nEverything is here. In one process, through the rooms: a launch opens the store, plans, takes a lease, looks at every file's identity and at the view; a start of a stopped sandbox only checks its files.\n\n| image | expanded | launch | start of a stopped sandbox |\n|---|---|---|---|\n")
	var slowest, largest, least time.Duration
	for _, i := range []image{small, real, made.image} {
		launch, again, err := b.checked(ctx, i)
		if err != nil {
			return "", err
		}
		var expanded int64
		for _, asset := range i.row.Assets() {
			expanded += asset.Content.Size
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", i.title, mib(expanded), launch, again)
		slowest, largest = max(slowest, launch.median()), launch.median()
		if least == 0 {
			least = launch.median()
		}
	}
	fmt.Fprintf(&text, "\nGoal below 2 ms: %s (%s). Largest to smallest image: %.2f.\n", met(slowest < 2*time.Millisecond), show(slowest), largest.Seconds()/least.Seconds())
	return text.String(), nil
}

// smallImage is one of some kilobytes.
func (b *bench) smallImage(ctx context.Context) (image, error) {
	folder := filepath.Join(b.scratch, "small")
	if err := fresh(folder); err != nil {
		return image{}, err
	}
	c, err := catalogue.Make(ctx, folder, time.Now())
	if err != nil {
		return image{}, err
	}
	return image{title: "small", folder: folder, row: c.Manifest.Rows[0]}, nil
}

// checked acquires the image from its folder and then times finding it again.
func (b *bench) checked(ctx context.Context, i image) (launch, again series, err error) {
	home := filepath.Join(b.scratch, "checked")
	if err := fresh(home); err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, empty(home)) }()
	found := resolve.Catalogue{Address: filepath.Join(i.folder, "manifest.json"), Manifest: manifest.Manifest{Release: "bench", Rows: []manifest.Row{i.row}}}
	found.Places = []string{found.Address}
	img, err := b.acquire(ctx, home, found)
	if err != nil {
		return nil, nil, err
	}
	if launch, err = repeat(20*b.rounds, func() error { _, err := b.acquire(ctx, home, found); return err }); err != nil {
		return nil, nil, err
	}
	again, err = repeat(20*b.rounds, func() error {
		s, err := store.Open(home)
		if err != nil {
			return err
		}
		return acquire.New(s, nil, event.Discard{}, time.Now).Check(ctx, img)
	})
	return launch, again, err
}

// acquire is what a launch does between the catalogue and the sandbox.
func (b *bench) acquire(ctx context.Context, home string, found resolve.Catalogue) (record.Image, error) {
	s, err := store.Open(home)
	if err != nil {
		return record.Image{}, err
	}
	plan, err := found.Plan(ctx, found.Manifest.Rows[0], s)
	if err != nil {
		return record.Image{}, err
	}
	image, lease, err := acquire.New(s, fetch.New(fetch.Options{}).Mirrors(found.Places, event.Discard{}), event.Discard{}, time.Now).Run(ctx, plan, acquire.Options{})
	if err != nil {
		return record.Image{}, err
	}
	return image, lease.Release()
}
