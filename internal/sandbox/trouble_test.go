package sandbox_test

import (
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
)

// tries runs a program that may end with its guest.
func (b *bench) tries(name string, argv ...string) {
	b.t.Helper()
	c, err := b.m.Connect(b.t.Context(), name)
	if err != nil {
		return // it is off
	}
	defer c.Close()
	_, _ = c.Exec(b.t.Context(), command(argv...), supervise.Streams{})
}

// knows waits until the record says of a trouble.
func (b *bench) knows(name string, kind record.TroubleKind, there bool) record.Trouble {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		s, err := b.m.Get(name)
		if err != nil {
			b.t.Fatal(err)
		}
		var found record.Trouble
		for _, t := range s.Troubles {
			if t.Kind == kind {
				found = t
			}
		}
		if (found.Count > 0) == there {
			return found
		}
	}
	b.t.Fatalf("the record of %s: %s is %v to be in it", name, kind, there)
	return record.Trouble{}
}

func TestTroublesAreInTheRecordWhileItRuns(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.start("box")
	b.exec("box", "", "say", "[ 9.0] Out of memory: Killed process 12 (node) total-vm:1kB")
	if got := b.knows("box", record.OutOfMemory, true); !strings.Contains(got.Line, "12 (node)") {
		t.Errorf("%+v", got)
	}
	b.exec("box", "", "full", "the disk is full")
	b.knows("box", record.DiskFull, true)
	b.exec("box", "", "full", "")
	b.knows("box", record.DiskFull, false)
	b.tries("box", "panic", "made up")
	if got := b.knows("box", record.Panic, true); !strings.Contains(got.Line, "made up") {
		t.Errorf("%+v", got)
	}
	if _, status := b.exec("box", "", "exit", "3"); status != 3 {
		t.Error("after the panic it does not answer")
	}
	if err := b.m.Stop(t.Context(), "box", time.Minute); err != nil {
		t.Fatal(err)
	}
	b.knows("box", record.Panic, true)
	b.start("box")
	if s := b.wantState("box", sandbox.Running); len(s.Troubles) != 0 {
		t.Errorf("a new run begins with %+v", s.Troubles)
	}
}

// TestGuestThatRestartsOverAndOver is switched off, and says so.
func TestGuestThatRestartsOverAndOver(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.start("box")
	for deadline := time.Now().Add(time.Minute); b.book.Held("box"); { // when it is switched off, too
		if time.Now().After(deadline) {
			t.Fatal("it restarts for ever")
		}
		b.tries("box", "panic", "again")
	}
	s := b.wantState("box", sandbox.Stopped)
	if !strings.Contains(s.LastError, "switched off") || !strings.Contains(s.LastError, "Kernel panic - not syncing: again") {
		t.Errorf("its error is %q", s.LastError)
	}
	if got := b.knows("box", record.Reboots, true); got.Count != 1 {
		t.Errorf("%+v", got)
	}
	b.start("box")
}

// TestMemoryIsTold: what a guest says of its memory its supervisor knows.
func TestMemoryIsTold(t *testing.T) {
	b := newBench(t)
	b.create("box")
	b.start("box")
	b.exec("box", "", "memory", "1000000")
	c, err := b.m.Connect(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := int64(128<<20 - 1000000)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Memory != nil && s.Memory.Used == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("its supervisor knows %+v, want %d used", s.Memory, want)
		}
	}
}
