package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// snapshots is the book of the bench's snapshots.
func (b *bench) snapshots() *record.Book {
	b.t.Helper()
	book, err := record.OpenSnapshots(b.home)
	if err != nil {
		b.t.Fatal(err)
	}
	return book
}

// TestSnapshot keeps a sandbox, changes and deletes it, and restores it twice.
func TestSnapshot(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	scratch := b.book.Folder("one").Scratch()
	if err := os.WriteFile(scratch, []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := b.m.Snapshot(t.Context(), "one", "ready", false)
	if err != nil || kept.Name != "ready" || kept.Snapshot.Of != "one" || kept.OnDisk == 0 {
		t.Fatalf("kept %+v, %v", kept, err)
	}
	if err := os.WriteFile(scratch, []byte("later"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _ := b.exec("one", "hello", "cat"); out != "hello" {
		t.Errorf("the sandbox that was kept answers %q", out)
	}
	if err := b.m.Delete(t.Context(), "one", sandbox.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"two", "one"} {
		r, err := b.m.Restore(t.Context(), "ready", sandbox.Fork{Names: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != name || r.Snapshot != nil || r.State != record.Created {
			t.Errorf("restored %+v", r)
		}
		if out, _ := b.exec(name, "hello", "cat"); out != "hello" {
			t.Errorf("%s answers %q", name, out)
		}
		if text, err := os.ReadFile(b.book.Folder(name).Scratch()); err != nil || !strings.HasPrefix(string(text), "as it was") {
			t.Errorf("the disk of %s holds %q, %v", name, text, err)
		}
	}
	all, err := b.m.Snapshots()
	if err != nil || len(all) != 1 || all[0].Name != "ready" || all[0].Broken != "" {
		t.Errorf("snapshots: %+v, %v", all, err)
	}
	if err := b.m.RemoveSnapshot("ready"); err != nil {
		t.Error(err)
	}
	if _, err := b.m.Restore(t.Context(), "ready", sandbox.Fork{Names: []string{"three"}}); fault.CodeOf(err) != fault.NotFound || !strings.Contains(err.Error(), `snapshot "ready"`) {
		t.Errorf("a snapshot that was removed: %v", err)
	}
	if out, _ := b.exec("two", "hello", "cat"); out != "hello" {
		t.Errorf("without its snapshot it answers %q", out)
	}
}

// TestSnapshotsAreNoRestarts keeps a sandbox more often than a guest may start over.
func TestSnapshotsAreNoRestarts(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	for range 10 {
		if _, err := b.m.Snapshot(t.Context(), "one", "ready", false); err != nil {
			t.Fatal(err)
		}
		if err := b.m.RemoveSnapshot("ready"); err != nil {
			t.Fatal(err)
		}
	}
	if out, _ := b.exec("one", "hello", "cat"); out != "hello" {
		t.Errorf("it answers %q", out)
	}
	if found, err := b.m.Get("one"); err != nil || len(found.Record.Troubles) != 0 {
		t.Errorf("troubles %+v, %v", found.Record.Troubles, err)
	}
}

// TestSnapshotRefuses leaves no snapshot and no sandbox behind.
func TestSnapshotRefuses(t *testing.T) {
	b := newBench(t)
	b.create("one")
	if _, err := b.m.Snapshot(t.Context(), "one", "kept", false); fault.CodeOf(err) != fault.NotRunning {
		t.Errorf("a stopped sandbox: %v", err)
	}
	b.start("one")
	if _, err := b.m.Snapshot(t.Context(), "one", "kept", false); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		snapshot string
		code     fault.Code
	}{"taken": {"kept", fault.Conflict}, "no name": {"a b", fault.Usage}} {
		if _, err := b.m.Snapshot(t.Context(), "one", c.snapshot, false); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, spoil := range map[string]func(book *record.Book) error{
		"machine": func(book *record.Book) error {
			return os.Truncate(filepath.Join(book.Folder("kept").Dir(), "machine", "machine.json"), 10)
		},
		"image": func(*record.Book) error { return os.Remove(filepath.Join(b.home, "kernel")) },
		"dialect": func(book *record.Book) error {
			r, err := book.Read("kept")
			r.Snapshot.Dialect = 99
			return errors.Join(err, book.Write(r))
		},
		"record": func(book *record.Book) error { return os.WriteFile(book.Folder("kept").Record(), []byte("{"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			spoiled := b.copyHome(t)
			if err := spoil(spoiled); err != nil {
				t.Fatal(err)
			}
			_, err := b.m.Restore(t.Context(), "kept", sandbox.Fork{Names: []string{"two"}})
			if err == nil || fault.CodeOf(err) == fault.Internal {
				t.Errorf("restored: %v", err)
			}
			if name == "machine" && !strings.HasSuffix(fault.HintOf(err), "smolvm snapshot rm kept") {
				t.Errorf("%v does not say what to do: %q", err, fault.HintOf(err))
			}
			t.Log(err)
			if _, err := os.Lstat(b.book.Folder("two").Dir()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a part of a sandbox is left: %v", err)
			}
		})
	}
	all, err := b.m.Snapshots()
	if err != nil || len(all) != 1 || all[0].Broken != "" {
		t.Errorf("snapshots: %+v, %v", all, err)
	}
}

// copyHome puts what a test spoils back when it ends.
func (b *bench) copyHome(t *testing.T) *record.Book {
	t.Helper()
	book := b.snapshots()
	dir, kernel := book.Folder("kept").Dir(), filepath.Join(b.home, "kernel")
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(saved)), os.WriteFile(kernel, []byte("kernel"), 0o600))
		if err != nil {
			t.Error(err)
		}
	})
	return book
}

// TestSnapshotInterrupted interrupts snapshots at several moments: each is whole or not
// there.
func TestSnapshotInterrupted(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := b.m.Snapshot(ctx, "one", "kept", false)
		cancel()
		t.Logf("after %v: %v", after, err)
		all, listed := b.m.Snapshots()
		if listed != nil || len(all) != map[bool]int{true: 1, false: 0}[err == nil] {
			t.Errorf("interrupted after %v (%v): %+v, %v", after, err, all, listed)
		}
		if err == nil {
			if err := b.m.RemoveSnapshot("kept"); err != nil {
				t.Error(err)
			}
		}
		if out, _ := b.exec("one", "hello", "cat"); out != "hello" {
			t.Errorf("interrupted after %v: the sandbox answers %q", after, out)
		}
	}
}

// TestUnfinishedSnapshotIsRemoved finds what a killed process left, and spares what
// another one is making.
func TestUnfinishedSnapshotIsRemoved(t *testing.T) {
	b := newBench(t)
	b.create("one")
	r, err := b.book.Read("one")
	if err != nil {
		t.Fatal(err)
	}
	book := b.snapshots()
	var making *record.Lock
	for _, name := range []string{"killed", "empty", "making"} {
		lock, err := book.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if r.Name = name; name != "empty" {
			r.Snapshot = &record.Snapshot{Of: "one"}
			if err := book.Write(r); err != nil {
				t.Fatal(err)
			}
		}
		if name == "making" {
			making = lock
		} else if err := lock.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.m.Recover(); err != nil {
		t.Fatal(err)
	}
	names, err := book.Names()
	if err != nil || len(names) != 1 || names[0] != "making" {
		t.Errorf("left: %q, %v", names, err)
	}
	if all, err := b.m.Snapshots(); err != nil || len(all) != 0 {
		t.Errorf("listed while it is made: %+v, %v", all, err)
	}
	if err := b.m.RemoveSnapshot("making"); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("removed while it is made: %v", err)
	}
	if err := making.Remove(); err != nil {
		t.Error(err)
	}
}
