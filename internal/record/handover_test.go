package record

import (
	"os"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

// inherit gives the file a child process would have.
func inherit(t *testing.T, l *Lock) *os.File {
	t.Helper()
	fd, err := syscall.Dup(int(l.File().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "lock")
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestHandOver passes a lock on; at no moment is the sandbox free.
func TestHandOver(t *testing.T) {
	b := newBook(t, "")
	lock, err := b.Create("one")
	if err != nil {
		t.Fatal(err)
	}
	file := inherit(t, lock)
	if err := lock.Part(); err != nil {
		t.Fatal(err)
	}
	if !b.Held("one") {
		t.Fatal("the lock is free although it was inherited")
	}
	adopted, err := b.Adopt("one", file)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil || !b.Held("one") {
		t.Errorf("the one who parted gave up what is not his any more: %v", err)
	}
	if _, err := b.Lock("one"); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("a second lock: %v", err)
	}
	if err := adopted.Release(); err != nil || b.Held("one") {
		t.Errorf("still held after the release, %v", err)
	}
	if err := adopted.Release(); err != nil {
		t.Errorf("a second release: %v", err)
	}
}

// TestAdoptAnother refuses the lock of a sandbox that was replaced meanwhile,
// and one that somebody else took.
func TestAdoptAnother(t *testing.T) {
	b := newBook(t, "")
	lock, err := b.Create("one")
	if err != nil {
		t.Fatal(err)
	}
	file := inherit(t, lock)
	if err := lock.Remove(); err != nil {
		t.Fatal(err)
	}
	create(t, b, "one")
	_, err = b.Adopt("one", file)
	wantFault(t, err, fault.Conflict, "replaced")

	if lock, err = b.Lock("one"); err != nil {
		t.Fatal(err)
	}
	free, err := os.Open(b.Folder("one").LockFile()) // not inherited
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	_, err = b.Adopt("one", free)
	wantFault(t, err, fault.Conflict, "in use")
	_, err = b.Adopt("none", free)
	wantFault(t, err, fault.NotFound)
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestRetire(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "one")
	lock, err := b.Lock("one")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := b.Folder("one").MakeRunDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Retire(); err != nil || b.Held("one") {
		t.Errorf("still held, %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the run folder is left: %v", err)
	}
}
