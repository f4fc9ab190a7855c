//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// crowded is how many sandboxes there are at a time.
	crowded = 20
	// rested is how long all of them are left alone before they are measured, and
	// then how long their work is counted.
	rested = 30 * time.Second
	// spare is what the computer has to have left in memory for one more.
	spare = 3 << 30
)

// amounts are of one kind, in bytes, one for each sandbox.
type amounts []int64

func (s amounts) String() string {
	sorted := slices.Sorted(slices.Values(s))
	return fmt.Sprintf("%s [%s-%s]", mib(sorted[(len(sorted)-1)/2]), mib(sorted[0]), mib(sorted[len(sorted)-1]))
}

// herd is what was measured of sandboxes that nobody uses.
type herd struct {
	start      series     // of each, with those before it running
	share, own [2]amounts // memory of supervisors and of QEMUs: what they use (PSS), and what is theirs alone
	disk       amounts
	taken      int64 // of the computer's memory, by all
	work       time.Duration
	list       series
}

// sandboxes starts a crowd, one after the other, and says what each takes while it
// does nothing.
func (b *bench) sandboxes(ctx context.Context) (text string, err error) {
	defer func() {
		_, deleted := b.must(context.WithoutCancel(ctx), "delete", "--all", "--yes")
		err = errors.Join(err, deleted)
	}()
	if _, err := b.must(ctx, "delete", "--all", "--yes"); err != nil {
		return "", err
	}
	var h herd
	before := memoryNow()
	for len(h.start) < crowded && memoryNow() > spare {
		d, err := timed(func() error {
			_, err := b.must(ctx, "claude", "start", "-n", idleName(len(h.start)), "--no-mount", "--no-attach", "--keep")
			return err
		})
		if err != nil {
			return "", err
		}
		h.start = append(h.start, d)
	}
	if err := pause(ctx, rested); err != nil {
		return "", err
	}
	h.taken = before - memoryNow()
	if err := b.measureHerd(ctx, &h); err != nil {
		return "", err
	}
	return h.render(), nil
}

func idleName(number int) string { return "idle-" + strconv.Itoa(number) }

func (b *bench) measureHerd(ctx context.Context, h *herd) error {
	for i := range h.start {
		pids, err := b.pids(idleName(i))
		if err != nil {
			return err
		}
		disk, err := allocated(filepath.Join(b.home, "sandboxes", idleName(i)))
		if err != nil {
			return err
		}
		h.disk = append(h.disk, disk)
		for k, pid := range pids {
			path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
			if kib(path, "Pss") == 0 {
				return fmt.Errorf("%s cannot be read", path)
			}
			h.share[k] = append(h.share[k], kib(path, "Pss")<<10)
			h.own[k] = append(h.own[k], kib(path, "Anonymous")<<10)
		}
	}
	before, err := b.workOf(h)
	if err != nil {
		return err
	}
	if err := pause(ctx, rested); err != nil {
		return err
	}
	after, err := b.workOf(h)
	if err != nil {
		return err
	}
	h.work = after - before
	h.list, err = repeat(2*b.rounds, func() error { _, err := b.must(ctx, "list"); return err })
	return err
}

// workOf is the processor time of all of them so far.
func (b *bench) workOf(h *herd) (sum time.Duration, err error) {
	for i := range h.start {
		used, err := b.processorTime(idleName(i))
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func (h herd) render() string {
	count := len(h.start)
	var text strings.Builder
	fmt.Fprintf(&text, "## %d sandboxes that nobody uses\n\nclaude-code with the memory and the disk that its image asks for, started one after the other, measured %s after the last one was ready. Pages that processes share count in parts (PSS).\n\n| each sandbox | |\n|---|---|\n", count, show(rested))
	for _, row := range []struct {
		name  string
		value fmt.Stringer
	}{
		{"`smolvm claude start`, with those before it running", h.start},
		{"memory of the supervisor", h.share[0]},
		{"of which anonymous", h.own[0]},
		{"memory of QEMU, the guest's included", h.share[1]},
		{"of which anonymous", h.own[1]},
		{"its folder on the disk of this computer", h.disk},
	} {
		fmt.Fprintf(&text, "| %s | %s |\n", row.name, row.value)
	}
	fmt.Fprintf(&text, "\n| all together | | for each |\n|---|---|---|\n| memory that this computer has no longer available | %s | %s |\n| processor time in %s | %s | %s |\n| `smolvm list` | %s | |\n",
		mib(h.taken), mib(h.taken/int64(count)), show(rested), show(h.work), show(h.work/time.Duration(count)), h.list)
	if count < crowded {
		fmt.Fprintf(&text, "\nWhy there are not %d: less than %s of this computer's memory was left.\n", crowded, mib(spare))
	}
	return text.String()
}

// memoryNow is the memory of this computer that programs can have, in bytes.
func memoryNow() int64 { return kib("/proc/meminfo", "MemAvailable") << 10 }

// kib is a "name: number kB" line of a file; 0 where there is none.
func kib(path, name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(field(path, name), " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// allocated is what the files of a folder take on the disk.
func allocated(folder string) (sum int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += stat.Blocks * 512
		}
		return nil
	})
	return sum, err
}
