//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// many is how many processes pull the same image at a time.
const many = 50

// crowd compares one pull with many of the same image at the same time.
func (b *bench) crowd(ctx context.Context) (text string, err error) {
	i, err := b.realImage()
	if err != nil {
		return "", err
	}
	server, err := startNginx(ctx, i.folder)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	home := filepath.Join(b.scratch, "crowd")
	defer func() { err = errors.Join(err, empty(home)) }()
	var one, all, start series
	var wire [2]int64
	for range b.rounds {
		for k, s := range []*series{&one, &all} {
			if err := fresh(home); err != nil {
				return "", err
			}
			before, err := server.sent(ctx, ".zst")
			if err != nil {
				return "", err
			}
			d, err := timed(func() error {
				return b.together(ctx, []int{1, many}[k], func() *exec.Cmd { return b.pull(ctx, i, server.address, home) })
			})
			if err != nil {
				return "", err
			}
			*s = append(*s, d)
			after, err := server.sent(ctx, ".zst")
			if err != nil {
				return "", err
			}
			wire[k] = max(wire[k], after-before)
		}
		d, err := timed(func() error {
			return b.together(ctx, many, func() *exec.Cmd { return b.pull(ctx, i, server.address, home) })
		})
		if err != nil {
			return "", err
		}
		start = append(start, d)
	}
	return renderCrowd(one, all, start, wire), nil
}

func renderCrowd(one, all, start series, wire [2]int64) string {
	r := ratio(all, one)
	text := fmt.Sprintf("## %d processes pull the same image\n\nclaude-code from nginx, from an empty state folder.\n\n| | time | bytes of archives sent |\n|---|---|---|\n| one process | %s | %s |\n| %d processes, all started at once, until the last has ended | %s | %s |\n| the same again, with everything here | %s | 0 |\n| ratio | %.2f (%s) | %.3f (one download: %s) |\n",
		many, one, mib(wire[0]), many, all, mib(wire[1]), start, r, verdict(r, 1.3), float64(wire[1])/float64(wire[0]), met(wire[1] <= wire[0]+wire[0]/100))
	if r > 1.3 {
		text += fmt.Sprintf("\nWhy: starting %d processes that look at the catalogue and at the cache and find everything takes %s by itself on these cores; the download takes its %s beside that.\n", many, show(start.median()), show(one.median()))
	}
	return text
}

// together runs n processes at a time.
func (b *bench) together(ctx context.Context, n int, command func() *exec.Cmd) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	group, _ := errgroup.WithContext(ctx)
	for range n {
		group.Go(func() error {
			if out, err := command().CombinedOutput(); err != nil {
				return fmt.Errorf("smolvm image pull: %w\n%s", err, out)
			}
			return nil
		})
	}
	return group.Wait()
}
