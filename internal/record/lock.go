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
	file *os.File // closed once given up
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

// Share is Lock for those who only read: many may hold it at the same time.
func (b *Book) Share(name string) (*Lock, error) {
	open, err := b.gateAt(name)
	if err != nil {
		return nil, err
	}
	defer open()
	return b.takeAs(name, syscall.LOCK_SH)
}

func (b *Book) waiting() string {
	if b.noun == sandboxNoun {
		return "Wait for it, or stop the sandbox first."
	}
	return "Wait for it."
}

// take takes the lock; the gate is closed. It is a flock of an open file, as
// those of the flock package are, but one whose file can be passed on.
func (b *Book) take(name string) (*Lock, error) { return b.takeAs(name, syscall.LOCK_EX) }

func (b *Book) takeAs(name string, how int) (*Lock, error) {
	file, err := os.OpenFile(b.Folder(name).LockFile(), os.O_CREATE|os.O_RDWR|safely, 0o600)
	if err != nil {
		return nil, storage(err, "lock "+b.what(name))
	}
	if err := b.seize(name, file, how); err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Lock{book: b, name: name, file: file}, nil
}

// seize locks an open lock file, or fails with Conflict.
func (b *Book) seize(name string, file *os.File, how int) error {
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return fault.New(fault.Storage, "Delete it.", "the lock of %s is not a regular file", b.what(name))
	}
	err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fault.New(fault.Conflict, b.waiting(),
			"%s is in use by another process", b.what(name))
	}
	if err != nil {
		return storage(err, "lock "+b.what(name))
	}
	return nil
}

// File is the locked file. A process that inherits it holds the lock too, and
// makes a Lock of it by Adopt; the lock is free when all of them are closed or
// one of them gives it up.
func (l *Lock) File() *os.File { return l.file }

// Adopt makes a Lock of a file inherited from the process that took it. It
// fails with Conflict when that is not the sandbox's lock. On an error the file
// stays the caller's.
func (b *Book) Adopt(name string, file *os.File) (*Lock, error) {
	open, err := b.gateAt(name)
	if err != nil {
		return nil, err
	}
	defer open()
	ours, err := file.Stat()
	if err != nil {
		return nil, storage(err, fmt.Sprintf("take over the lock of sandbox %q", name))
	}
	if now, err := os.Lstat(b.Folder(name).LockFile()); err != nil || !os.SameFile(ours, now) {
		return nil, fault.New(fault.Conflict, "", "sandbox %q was replaced by another of its name", name)
	}
	if err := b.seize(name, file, syscall.LOCK_EX); err != nil {
		return nil, err
	}
	return &Lock{book: b, name: name, file: file}, nil
}

// Part closes this process's hold on a lock that another one has inherited,
// which thereby keeps it. After Release or Remove it does nothing.
func (l *Lock) Part() error {
	if err := l.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("hand over the lock of sandbox %q: %w", l.name, err)
	}
	return nil
}

// Release gives the lock up, also for those who inherited it. Releasing twice
// does nothing.
func (l *Lock) Release() error {
	err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN)
	if errors.Is(err, syscall.EBADF) {
		return nil // given up already
	}
	return errors.Join(err, l.file.Close())
}

// Retire removes the sandbox's run folder and gives the lock up. It is one step
// for everyone who looks: a sandbox without a socket is not held any more.
func (l *Lock) Retire() error {
	open, err := l.book.gate()
	if err != nil {
		return errors.Join(err, l.Release())
	}
	defer open()
	return errors.Join(l.book.Folder(l.name).RemoveRunDir(), l.Release())
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
