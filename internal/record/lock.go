package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/smolvm/smolvm/internal/fault"
)

// Opening a planted link fails and opening a planted FIFO does not hang.
const safely = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// Lock is the liveness of one sandbox. The kernel releases it when the process
// that holds it ends, however it ends.
type Lock struct {
	book *Book
	name string
	file *flock.Flock // nil: the folder has none that could be held
}

// Lock takes the sandbox's lock without waiting. It fails with NotFound where
// there is no such sandbox and with Conflict while another process holds it.
func (b *Book) Lock(name string) (*Lock, error) {
	open, err := b.gateAt(name)
	if err != nil {
		return nil, err
	}
	defer open()
	return b.take(name)
}

// take takes the lock; the gate is closed.
func (b *Book) take(name string) (*Lock, error) {
	file := flock.New(b.Folder(name).LockFile(), flock.SetFlag(os.O_CREATE|os.O_RDWR|safely), flock.SetPermissions(0o600))
	taken, err := file.TryLock()
	if err != nil {
		return nil, storage(err, fmt.Sprintf("lock sandbox %q", name))
	}
	if !taken {
		return nil, fault.New(fault.Conflict, "Wait for it, or stop the sandbox first.",
			"sandbox %q is in use by another process", name)
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = file.Unlock()
		return nil, fault.New(fault.Storage, "Delete the sandbox.", "the lock of sandbox %q is not a regular file", name)
	}
	return &Lock{book: b, name: name, file: file}, nil
}

// Release gives the lock up. Releasing twice does nothing.
func (l *Lock) Release() error {
	if l.file == nil {
		return nil
	}
	return l.file.Unlock()
}

// Remove removes the locked sandbox with its folder and sockets, and releases
// the lock.
func (l *Lock) Remove() error {
	open, err := l.book.gate()
	if err != nil {
		return err
	}
	defer open()
	return errors.Join(l.book.remove(l.name), l.Release())
}

// Held tells whether some process holds the sandbox's lock: it is running, or
// being made, started or removed.
func (b *Book) Held(name string) bool {
	if ValidateName(name) != nil {
		return false
	}
	open, err := b.sharedGate()
	if err != nil {
		return false
	}
	defer open()
	file := flock.New(b.Folder(name).LockFile(), flock.SetFlag(os.O_RDONLY|safely))
	free, err := file.TryRLock()
	if err != nil {
		return false
	}
	if free {
		_ = file.Unlock()
	}
	return !free
}

// The gate is a lock over the whole book, held for a few system calls. It makes
// "look and take" one step: a look at a sandbox's lock cannot make another
// process believe that it is taken, and a folder cannot vanish or appear
// between the parts of Create, Lock, Write and Remove.
func (b *Book) gate() (open func(), err error) {
	if err := b.make(); err != nil {
		return nil, err
	}
	file := flock.New(b.gatePath(), flock.SetFlag(os.O_CREATE|os.O_RDWR|safely), flock.SetPermissions(0o600))
	if err := file.Lock(); err != nil {
		return nil, storage(err, "lock the state folder")
	}
	return func() { _ = file.Unlock() }, nil
}

// gateAt closes the gate before an existing sandbox. It looks twice, so that a
// wrong name makes no folders and a sandbox removed meanwhile is noticed.
func (b *Book) gateAt(name string) (open func(), err error) {
	if err := b.mustExist(name); err != nil {
		return nil, err
	}
	open, err = b.gate()
	if err != nil {
		return nil, err
	}
	if err := b.mustExist(name); err != nil {
		open()
		return nil, err
	}
	return open, nil
}

// sharedGate writes nothing: it works on a state folder that cannot be written.
func (b *Book) sharedGate() (open func(), err error) {
	file := flock.New(b.gatePath(), flock.SetFlag(os.O_RDONLY|safely))
	err = file.RLock()
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, storage(err, "lock the state folder")
	}
	return func() { _ = file.Unlock() }, nil
}

func (b *Book) gatePath() string { return filepath.Join(b.dir, ".gate") }
