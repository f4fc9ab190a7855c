//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/event"
)

// localBuild compares a first launch whose image is built here with one whose image
// is published. The build downloads from the package index, whose speed is not ours.
func (b *bench) localBuild(ctx context.Context) (string, error) {
	if err := empty(b.home); err != nil {
		return "", err
	}
	args := []string{"claude", "start", "--no-mount", "--rm", "--progress", "json", "--", "--version"}
	published, _, err := b.onceTimed(ctx, args...)
	if err != nil {
		return "", err
	}
	if err := empty(b.home); err != nil {
		return "", err
	}
	b.env = []string{"SMOLVM_USE_PUBLISHED=0"}
	defer func() { b.env = nil }()
	built, steps, err := b.onceTimed(ctx, args...)
	if err != nil {
		return "", err
	}
	again, _, err := b.onceTimed(ctx, args...)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("## First launch of an image that is built here\n\n" +
		"`smolvm claude start --no-mount --rm -- --version` from an empty cache, once each: with the published image, and with " +
		"`SMOLVM_USE_PUBLISHED=0`, where kernel and base come from 127.0.0.1 and the agent from the package index.\n\n| step of the build | time |\n|---|---|\n")
	for _, e := range steps {
		switch e.Stage {
		case event.Recipe, event.Pack, event.Publish, event.Boot:
			fmt.Fprintf(&text, "| %s %s | %s |\n", e.Stage, e.Object, show(e.Elapsed))
		}
	}
	fmt.Fprintf(&text, "\n| launch | time | to the published one |\n|---|---|---|\n| published | %s | 1 |\n| built here | %s | %.0f |\n| the same again | %s | %.2f |\n",
		show(published), show(built), built.Seconds()/published.Seconds(), show(again), again.Seconds()/published.Seconds())
	return text.String(), nil
}

// onceTimed is one launch with how long it took and what it did.
func (b *bench) onceTimed(ctx context.Context, args ...string) (time.Duration, []event.Event, error) {
	begun := time.Now()
	events, err := b.launch(ctx, args...)
	return time.Since(begun), events, err
}
