//go:build linux

package diskcase

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/test/faultdisk"
)

// way is what happens at a step.
type way string

const (
	kill     way = "kill -9"
	cut      way = "kill -9, and the power is cut: only what was synced is left"
	cutDice  way = "kill -9, and the power is cut: a part of the rest is left too"
	failEIO  way = "EIO"
	failFull way = "ENOSPC"
	failOver way = "EDQUOT"
	failRead way = "EROFS, and from there on"
)

var ways = []way{cut, cutDice, kill, failEIO, failFull, failOver, failRead}

var errnos = map[way]syscall.Errno{
	failEIO: syscall.EIO, failFull: syscall.ENOSPC, failOver: syscall.EDQUOT, failRead: syscall.EROFS,
}

// lasting is how often a way fails; none: a disk that is read-only stays so.
var lasting = map[way]int{failEIO: 1, failFull: 1, failOver: 1}

// walk is one command, disturbed at each of its steps.
type walk struct {
	from  *faultdisk.Disk // what the disk holds before
	args  []string
	again []string // what is run to recover; nil: args
	keeps string   // the release that has to be whole all the time; empty: none
	// visible says what is wrong with what is there right after the disturbance; nil: nothing more.
	visible func(seen map[string]faultdisk.Sight) string
}

// point is one of its steps and what happens there.
type point struct {
	step int // from 1
	way  way
}

// run walks: every step in every way, or a sample.
func (w walk) run(t *testing.T, b *bench) {
	t.Helper()
	want, steps := w.undisturbed(t, b)
	points := choose(b.dice, len(steps))
	t.Logf("%v: %d steps, %d points", w.args[:2], len(steps), len(points))
	for _, p := range points {
		w.try(t, b, p, want)
		if t.Failed() {
			t.Fatal("stopped at the first point that failed")
		}
	}
}

// undisturbed gives what the command leaves and its steps.
func (w walk) undisturbed(t *testing.T, b *bench) (map[string]faultdisk.Sight, []string) {
	t.Helper()
	d := w.from.Clone()
	var steps []string
	b.on(t, d, func() {
		d.Steps()
		b.must(t, "undisturbed", w.args...)
		steps = d.Steps()
		if w.again != nil {
			b.must(t, "undisturbed", w.again...)
		}
	})
	if text := b.wrong(d.Look()); text != "" {
		t.Fatal(text)
	}
	return things(d), steps
}

// choose gives the points to try. Steps of parallel work come in another order in
// each run: some steps more than were seen are tried.
func choose(dice *rand.Rand, steps int) []point {
	var all []point
	for step := range steps + 2 {
		for _, how := range ways {
			all = append(all, point{step + 1, how})
		}
	}
	if *sample == 0 || *sample >= len(all) {
		return all
	}
	dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:*sample]
}

func (w walk) try(t *testing.T, b *bench, p point, want map[string]faultdisk.Sight) {
	t.Helper()
	d := w.from.Clone()
	b.on(t, d, func() {
		name := w.disturb(t, b, d, p)
		if text := w.harm(b, d.Look()); text != "" {
			t.Errorf("%s: right after it:\n%s", name, text)
		}
		b.must(t, name+": the next run", w.recovery()...)
		seen := things(d)
		if text := difference(seen, want); text != "" {
			t.Errorf("%s, after the next run:\n%s", name, text)
		}
		if text := b.wrong(seen); text != "" {
			t.Errorf("%s, after the next run:\n%s", name, text)
		}
	})
}

// harm says what must not be seen at any time.
func (w walk) harm(b *bench, seen map[string]faultdisk.Sight) string {
	text := b.wrong(seen)
	if w.keeps != "" {
		text += b.lacks(w.keeps, seen)
	}
	if w.visible != nil {
		text += w.visible(seen)
	}
	return text
}

func (w walk) recovery() []string {
	if w.again != nil {
		return w.again
	}
	return w.args
}

// disturb runs the command to the point, and describes that.
func (w walk) disturb(t *testing.T, b *bench, d *faultdisk.Disk, p point) string {
	t.Helper()
	r := b.command(w.args...)
	errno, fails := errnos[p.way]
	d.Steps()
	if fails {
		d.Fail(faultdisk.Fault{Skip: p.step - 1, Times: lasting[p.way], Err: errno})
	} else {
		d.StopAt(p.step, r.kill)
	}
	got := r.run(t)
	steps := d.Steps()
	name := fmt.Sprintf("step %d (%s): %s", p.step, around(steps, p.step), p.way)
	if fails {
		failedWell(t, name, got)
	} else if got.status >= 0 && len(steps) >= p.step {
		t.Errorf("%s: it was not killed: %d, %s", name, got.status, got.stderr)
	}
	switch p.way {
	case cut:
		must(t, d.PowerCut(nil))
	case cutDice:
		must(t, d.PowerCut(rand.New(rand.NewPCG(*seed, uint64(p.step)))))
	default:
		d.Continue()
		d.Fail()
	}
	return name
}

// around shows the steps up to one.
func around(steps []string, n int) string {
	if n > len(steps) {
		return "after the last"
	}
	return strings.Join(steps[max(0, n-8):n], "; ")
}
