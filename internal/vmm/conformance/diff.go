package conformance

import (
	"bytes"
	"crypto/rand"
	"os"
	"testing"

	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
)

// differs keeps a machine by what changed since full, restores that, and does the same
// with the restored one. Each has all that its guest ever kept in memory, and what a
// snapshot is not the latest of is refused.
func differs(t *testing.T, first *bench, c *client, full snapshot, memory []byte) {
	machine := first.machine.(vmm.Differ)
	refusesDiff(t, machine, "nothing was prepared")
	refusesBase(t, machine, t.TempDir(), "an empty folder")
	memory = append(memory, c.keep(t)...)
	second := first.differ(t, full)
	if full.written > 0 && second.written > full.written/2 {
		t.Errorf("%d bytes were written, for a full snapshot %d", second.written, full.written)
	}
	refusesBase(t, machine, full.dir, "not the latest any more")
	refusesDiff(t, machine, "what was prepared is used up")

	spec, console := respec(t, first, second.scratch)
	spec.Track = true
	b := restoreSpec(t, first, spec, console, second.dir)
	c = b.link(t)
	c.remembers(t, memory)
	if got := c.ask(t, guest.Request{Op: guest.Read, Drive: "scratch", N: 6}); string(got.Data) != "behind" {
		t.Errorf("the restored scratch holds %q", got.Data)
	}
	memory = append(memory, c.keep(t)...)
	third := b.differ(t, second)
	refusesBase(t, machine, third.dir, "another run's")

	b = restore(t, first, third.dir, third.scratch)
	b.link(t).remembers(t, memory)
	refusesBase(t, b.machine.(vmm.Differ), third.dir, "a machine that was not asked to track")
}

// differ keeps the machine by what changed since its latest snapshot. What is left does
// not need that one.
func (b *bench) differ(t *testing.T, latest snapshot) snapshot {
	t.Helper()
	base := copyFolder(t, latest.dir)
	machine := b.machine.(vmm.Differ)
	if err := machine.Prepare(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	empty(t, base)
	return b.take(t, machine.Diff, t.TempDir())
}

func refusesBase(t *testing.T, machine vmm.Differ, base, why string) {
	t.Helper()
	if err := machine.Prepare(t.Context(), base); err == nil {
		t.Errorf("a base was taken: %s", why)
	}
}

func refusesDiff(t *testing.T, machine vmm.Differ, why string) {
	t.Helper()
	dir := t.TempDir()
	if err := machine.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := machine.Diff(t.Context(), dir); err == nil {
		t.Errorf("a difference was kept: %s", why)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("left of it: %v %v", files, err)
	}
	if err := machine.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// differsNot checks that a driver without differences refuses to track.
func differsNot(t *testing.T, s Setup, layer string) {
	spec, _ := newSpec(t, s, layer)
	spec.Track = true
	m, err := s.Driver.Start(t.Context(), spec)
	if err == nil {
		_ = m.Kill()
		t.Error("a machine was started that notes no changes, and was to")
	}
}

// block is how much a guest is given to keep at a time, in bytes: more than a page, and
// three fit into the note that a fake machine's memory is kept in.
const block = 8 << 10

// keep has the guest keep a block of random bytes in its memory.
func (c *client) keep(t *testing.T) []byte {
	t.Helper()
	data := make([]byte, block)
	_, _ = rand.Read(data) // never fails
	if got := c.ask(t, guest.Request{Op: guest.Keep, Data: data}); got.Error != "" {
		t.Fatal(got.Error)
	}
	return data
}

// remembers checks all that the guest has kept.
func (c *client) remembers(t *testing.T, want []byte) {
	t.Helper()
	if got := c.ask(t, guest.Request{Op: guest.Kept}); !bytes.Equal(got.Data, want) {
		t.Errorf("the guest keeps %d bytes, not the %d that it was given", len(got.Data), len(want))
	}
}
