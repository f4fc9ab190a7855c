package record

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

// renamed makes a sandbox "one" with a listening socket and its lock.
func renamed(t *testing.T) (*Book, *Lock, net.Listener) {
	t.Helper()
	b := newBook(t, "")
	b.temp = shortTemp(t)
	lock, err := b.Create("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Write(sample(b, "one")); err != nil {
		t.Fatal(err)
	}
	dir, err := b.Folder("one").MakeRunDir()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "control"))
	if err != nil {
		t.Fatal(err)
	}
	socket.(*net.UnixListener).SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = socket.Close() })
	return b, lock, socket
}

// TestRename gives a running sandbox another name: lock and socket go with it.
func TestRename(t *testing.T) {
	b, lock, _ := renamed(t)
	if err := lock.Rename("two"); err != nil {
		t.Fatal(err)
	}
	if names, _ := b.Names(); len(names) != 1 || names[0] != "two" {
		t.Fatalf("there are %q", names)
	}
	r, err := b.Read("two")
	if err != nil || r.Name != "two" || r.RenameTo != "" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if !b.Held("two") || b.Held("one") {
		t.Error("the lock is not that of the new name")
	}
	conn, err := net.Dial("unix", filepath.Join(b.Folder("two").RunDir(), "control"))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := lock.Retire(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(b.Folder("two").RunDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sockets are still there: %v", err)
	}
	if err := b.Remove("two"); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, b)
}

func TestRenameRefuses(t *testing.T) {
	b, lock, _ := renamed(t)
	create(t, b, "two")
	wantFault(t, lock.Rename("two"), fault.Conflict, `already a sandbox "two"`)
	wantFault(t, lock.Rename("../x"), fault.Usage, "name")
	if r, err := b.Read("one"); err != nil || r.Name != "one" {
		t.Errorf("after refused renames: %+v, %v", r, err)
	}
}

// TestInterruptedRename stops a rename between any two of its steps: there is one
// whole sandbox, which can be renamed again, and no socket folder too many.
func TestInterruptedRename(t *testing.T) {
	for step, want := range map[string]string{
		"announced": "one", "sockets": "one", "moved": "two",
		"temp": "one", "written": "one", "renamed": "one",
	} {
		t.Run(step, func(t *testing.T) {
			b, lock, socket := renamed(t)
			stop := errors.New("stopped")
			b.reached = func(s string) error {
				if s == step {
					return stop
				}
				return nil
			}
			if err := lock.Rename("two"); !errors.Is(err, stop) {
				t.Fatalf("got %v", err)
			}
			_ = socket.Close()
			if err := lock.Release(); err != nil {
				t.Fatal(err)
			}
			b.reached = nil
			names, err := b.Names()
			if err != nil || len(names) != 1 || names[0] != want {
				t.Fatalf("there are %q, %v; want %s", names, err, want)
			}
			if r, err := b.Read(want); err != nil || r.Name != want || r.RenameTo != "" {
				t.Fatalf("got %+v, %v", r, err)
			}
			if lock, err = b.Lock(want); err != nil {
				t.Fatal(err)
			}
			if err := lock.Rename("three"); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(lock.Retire(), b.Sweep()); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(filepath.Join(b.home, "run")); len(left) > 0 {
				t.Errorf("socket folders are left: %v", left)
			}
			if err := b.Remove("three"); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, b)
		})
	}
}
