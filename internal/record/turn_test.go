package record

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTurns lets many have the same turn, one after the other, and leaves no file.
func TestTurns(t *testing.T) {
	home := t.TempDir()
	var inside, waited atomic.Int32
	var crowd sync.WaitGroup
	for range 8 {
		crowd.Go(func() {
			book, err := Open(home)
			if err != nil {
				t.Error(err)
				return
			}
			done, err := book.Turn(t.Context(), "claude-code\x00/src", func() { waited.Add(1) })
			if err != nil {
				t.Error(err)
				return
			}
			if inside.Add(1) != 1 {
				t.Error("two have the same turn")
			}
			time.Sleep(5 * time.Millisecond)
			inside.Add(-1)
			if err := done(); err != nil {
				t.Error(err)
			}
		})
	}
	crowd.Wait()
	if waited.Load() == 0 {
		t.Error("nobody was told to wait")
	}
	book, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := book.Names(); len(names) > 0 || err != nil {
		t.Errorf("left %v, %v", names, err)
	}
	first, err := book.Turn(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := book.Turn(t.Context(), "b", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := book.Turn(ctx, "a", cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := errors.Join(first(), other()); err != nil {
		t.Error(err)
	}
}
