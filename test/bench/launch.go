//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/record"
)

// stage is one row of the first launch's table.
type stage struct {
	name  string
	bytes int64
	times series
}

// firstLaunch runs the main job from an empty state folder and tells its stages.
func (b *bench) firstLaunch(ctx context.Context) (string, error) {
	var order []string
	stages := map[string]*stage{}
	var totals series
	for range b.rounds {
		if err := empty(b.home); err != nil {
			return "", err
		}
		begun := time.Now()
		events, err := b.launch(ctx, "claude", "start", "--no-mount", "--rm", "--progress", "json", "--", "--version")
		if err != nil {
			return "", err
		}
		totals = append(totals, time.Since(begun))
		for _, e := range events {
			name := strings.TrimSpace(string(e.Stage) + " " + e.Object)
			if stages[name] == nil {
				stages[name] = &stage{name: name}
				order = append(order, name)
			}
			stages[name].bytes = e.Bytes
			stages[name].times = append(stages[name].times, e.Elapsed)
		}
	}
	var text strings.Builder
	text.WriteString("## First launch, by stage\n\n`smolvm claude start --no-mount --rm -- --version` from an empty cache, images served from 127.0.0.1.\n\n| stage | bytes | time |\n|---|---|---|\n")
	for _, name := range order {
		fmt.Fprintf(&text, "| %s | %d | %s |\n", name, stages[name].bytes, stages[name].times)
	}
	fmt.Fprintf(&text, "| whole command | | %s |\n", totals)
	return text.String(), nil
}

// launch runs the program and returns the stages that ended.
func (b *bench) launch(ctx context.Context, args ...string) (done []event.Event, err error) {
	err = b.events(ctx, func(e event.Event) {
		if e.Kind == event.Done && e.Stage != "" {
			done = append(done, e)
		}
	}, args...)
	return done, err
}

// events runs the program and hands over what it says while it runs.
func (b *bench) events(ctx context.Context, take func(event.Event), args ...string) error {
	cmd := b.command(ctx, args...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var last string
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		var e event.Event
		if last = lines.Text(); json.Unmarshal(lines.Bytes(), &e) == nil {
			take(e)
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("smolvm %s: %w\n%s", strings.Join(args, " "), err, last)
	}
	return nil
}

// warmLaunch starts sandboxes whose image is here, in turn with the floor: the
// same machine with a program that only powers off.
func (b *bench) warmLaunch(ctx context.Context) (string, error) {
	var warm, floor, first series
	var cpu []time.Duration
	f, err := b.newFloor(ctx)
	if err != nil {
		return "", err
	}
	for range b.rounds {
		begun := time.Now()
		if _, err := b.must(ctx, "claude", "start", "-n", "warm", "--no-mount", "--no-attach"); err != nil {
			return "", err
		}
		warm = append(warm, time.Since(begun))
		if _, err := b.must(ctx, "exec", "warm", "--", "true"); err != nil {
			return "", err
		}
		first = append(first, time.Since(begun))
		used, err := b.processorTime("warm")
		if err != nil {
			return "", err
		}
		cpu = append(cpu, used)
		if _, err := b.must(ctx, "delete", "warm", "--yes"); err != nil {
			return "", err
		}
		d, err := timed(func() error { return f.boot(ctx) })
		if err != nil {
			return "", err
		}
		floor = append(floor, d)
	}
	return fmt.Sprintf("## Warm launch\n\nThe image is in the store. The floor is the same QEMU command line, kernel, modules and drives with a static program that loads nothing and powers off.\n\n| | time |\n|---|---|\n| start to ready | %s |\n| start to first command done | %s |\n| floor: QEMU start to its end | %s |\n| ratio, first command to floor | %.2f |\n| host processor time of VMM and supervisor, per launch | %s |\n",
		warm, first, floor, ratio(first, floor), series(cpu)), nil
}

// processorTime is what the sandbox's host processes have used so far.
func (b *bench) processorTime(name string) (time.Duration, error) {
	var ticks uint64
	pids, err := b.pids(name)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// Fields 14 and 15 of proc(5), counted behind the name in parentheses.
		_, rest, _ := strings.Cut(string(raw), ") ")
		var user, system uint64
		fields := strings.Fields(rest)
		if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
			return 0, err
		}
		ticks += user + system
	}
	const perSecond = 100 // USER_HZ on every Linux architecture we run on
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// pids are the supervisor and the VMM of a sandbox, from its record.
func (b *bench) pids(name string) ([]int, error) {
	book, err := record.Open(b.home)
	if err != nil {
		return nil, err
	}
	r, err := book.Read(name)
	if err != nil {
		return nil, err
	}
	if r.Pid == 0 || r.VMMPid == 0 || syscall.Kill(r.Pid, 0) != nil {
		return nil, fmt.Errorf("the record of %s names no living processes: %d, %d", name, r.Pid, r.VMMPid)
	}
	return []int{r.Pid, r.VMMPid}, nil
}

// empty removes what is in a folder.
func empty(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
