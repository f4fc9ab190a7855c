//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// usage is what one run of a program took.
type usage struct {
	wall, cpu time.Duration // cpu with all children that it waited for
	peak      int64         // largest resident memory, bytes (VmHWM)
}

// watched runs a program to its end.
func watched(cmd *exec.Cmd) (usage, error) {
	var text strings.Builder
	cmd.Stderr = &text
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	ended, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- highWater(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	u := usage{wall: time.Since(begun), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	close(ended)
	if u.peak = <-peak; err != nil {
		return u, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, text.String())
	}
	return u, nil
}

// highWater reads a process's VmHWM until it has ended. The kernel keeps the
// maximum, so only what is reached in the last moments can be missed. (The
// resource usage that wait returns would count the parent's own memory.)
func highWater(pid int, ended <-chan struct{}) (peak int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		number, _, _ := strings.Cut(field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM"), " ")
		if kib, err := strconv.ParseInt(number, 10, 64); err == nil {
			peak = max(peak, kib<<10)
		}
		select {
		case <-tick.C:
		case <-ended:
			return peak
		}
	}
}

// processors is the time that these processes and their threads have had so far.
func processors(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has ended
		}
		for _, task := range tasks {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
			if err != nil {
				continue
			}
			ns, _, _ := strings.Cut(string(raw), " ")
			if n, err := strconv.ParseInt(ns, 10, 64); err == nil {
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

// need says which of the programs are not installed.
func need(programs ...string) error {
	var missing []string
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s (scripts/bootstrap --tests brings them)", strings.Join(missing, ", "))
	}
	return nil
}

// pause waits, or ends with ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
