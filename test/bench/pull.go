//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// limit is the most memory a pull may take.
const limit = 256 << 20

// race is pull against pipeline, and both against the floor.
type race struct {
	pull, pullCPU, pipe, pipeCPU series
	stages                       [][]usage
	peak                         int64
	ours, copied                 int64 // allocated
}

func (b *bench) pullReal(ctx context.Context) (string, error) {
	i, err := b.realImage()
	if err != nil {
		return "", err
	}
	return b.compare(ctx, i, "The image of claude-code that a launch here downloads: kernel, modules, base, agent.")
}

func (b *bench) pullSynthetic(ctx context.Context) (string, error) {
	s, err := b.synthetic(ctx)
	if err != nil {
		return "", err
	}
	return b.compare(ctx, s.image, s.describe())
}

// compare runs pull and pipeline in turn, from an empty state folder each time.
func (b *bench) compare(ctx context.Context, i image, what string) (text string, err error) {
	if err := need("bash", "curl", "openssl", "zstd", "cp"); err != nil {
		return "", err
	}
	server, err := startNginx(ctx, i.folder)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	var r race
	for range b.rounds {
		if err := b.round(ctx, i, server, &r); err != nil {
			return "", err
		}
	}
	home, copies := filepath.Join(b.scratch, "home"), filepath.Join(b.scratch, "copies")
	if err := errors.Join(fresh(home), fresh(copies)); err != nil {
		return "", err
	}
	if _, err := watched(b.pull(ctx, i, server.address, home)); err != nil {
		return "", err
	}
	if r.ours, r.copied, err = allocations(ctx, home, copies); err != nil {
		return "", err
	}
	return r.render(i, what), errors.Join(empty(home), empty(copies))
}

func (b *bench) round(ctx context.Context, i image, server *nginx, r *race) error {
	folder := filepath.Join(b.scratch, "round")
	defer func() { _ = empty(folder) }()
	if err := fresh(folder); err != nil {
		return err
	}
	pids := server.pids()
	before := processors(pids)
	u, err := watched(b.pull(ctx, i, server.address, folder))
	if err != nil {
		return err
	}
	r.pull, r.pullCPU = append(r.pull, u.wall), append(r.pullCPU, u.cpu+processors(pids)-before)
	r.peak = max(r.peak, u.peak)
	if err := fresh(folder); err != nil {
		return err
	}
	before = processors(pids)
	if u, err = watched(i.pipeline(ctx, server.address, folder)); err != nil {
		return err
	}
	r.pipe, r.pipeCPU = append(r.pipe, u.wall), append(r.pipeCPU, u.cpu+processors(pids)-before)
	stages, err := i.alone(ctx, server, folder)
	r.stages = append(r.stages, stages)
	return err
}

// stage is the series of one stage alone.
func (r race) stage(n int, of func(usage) time.Duration) (s series) {
	for _, round := range r.stages {
		s = append(s, of(round[n]))
	}
	return s
}

// floor is what cannot be beaten: the slowest stage alone, or all processor time
// spread over all cores.
func (r race) floor() (floor series) {
	for _, round := range r.stages {
		var slowest, sum time.Duration
		for _, u := range round {
			slowest = max(slowest, u.wall)
			sum += u.cpu
		}
		floor = append(floor, max(slowest, sum/time.Duration(runtime.NumCPU())))
	}
	return floor
}

func (r race) render(i image, what string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "## Pull: %s\n\n%s Archives of %s, served by nginx on 127.0.0.1. Each round starts with an empty state folder and a disk at rest; the server's files are in its memory. Both sides end with an fsync of every file.\n\n| | time | processor time, the server's included |\n|---|---|---|\n", i.title, what, mib(i.size()))
	fmt.Fprintf(&text, "| `smolvm image pull`, the whole command | %s | %s |\n", r.pull, r.pullCPU)
	fmt.Fprintf(&text, "| `curl \\| tee >(openssl dgst -sha256) \\| zstd -d --sparse`, fsync | %s | %s |\n", r.pipe, r.pipeCPU)
	for n, name := range stageNames {
		fmt.Fprintf(&text, "| %s alone | %s | %s |\n", name, r.stage(n, func(u usage) time.Duration { return u.wall }), r.stage(n, func(u usage) time.Duration { return u.cpu }))
	}
	fmt.Fprintf(&text, "| floor: the slowest stage, or all stages' processor time / %d cores | %s | |\n", runtime.NumCPU(), r.floor())
	toPipe, toFloor, holes := ratio(r.pull, r.pipe), ratio(r.pull, r.floor()), float64(r.ours)/float64(r.copied)
	fmt.Fprintf(&text, "\n| | value | |\n|---|---|---|\n| pull to pipeline | %.2f | %s |\n| pull to floor | %.2f | %s |\n", toPipe, verdict(toPipe, 0.40), toFloor, verdict(toFloor, 1.15))
	fmt.Fprintf(&text, "| allocated to `cp --sparse=always` | %.3f (%s, %s) | %s |\n", holes, mib(r.ours), mib(r.copied), verdict(holes, 1.02))
	fmt.Fprintf(&text, "| peak memory (VmHWM) | %s | goal below 256 MiB: %s |\n", mib(r.peak), met(r.peak < limit))
	return text.String() + r.why(toPipe, toFloor)
}

// why explains a missed goal with the figures of the run.
func (r race) why(toPipe, toFloor float64) string {
	var text strings.Builder
	cores := time.Duration(runtime.NumCPU())
	if toPipe > 0.40 {
		least := r.floor().median().Seconds() / r.pipe.median().Seconds()
		fmt.Fprintf(&text, "\nWhy the pipeline is not beaten by more: it uses %.1f cores by itself, and the floor of this machine is %.2f of its time; more cores help a pull and not the pipeline, whose stages are one thread each.\n",
			r.pipeCPU.median().Seconds()/r.pipe.median().Seconds(), least)
	}
	if toFloor > 1.15 {
		spent := r.pullCPU.median() / cores
		fmt.Fprintf(&text, "\nWhy the floor is not reached: a pull's own processor time / %d cores is %s, %.2f of the floor (one process has the start of the program, the catalogue and the store on top, and the stages disturb each other's caches); in the rest of the time a core was idle, or busy with something else.\n",
			cores, show(spent), spent.Seconds()/r.floor().median().Seconds())
	}
	return text.String()
}
