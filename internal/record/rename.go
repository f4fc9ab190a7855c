package record

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/smolvm/smolvm/internal/fault"
)

// Rename gives the locked sandbox another name, which must be free. The record
// announces the new name first, then one rename of the folder makes it the name:
// a crash between any two steps leaves the sandbox whole, under exactly one of
// the two. Open files, the lock and the sockets stay what they are.
func (l *Lock) Rename(to string) error {
	if err := ValidateName(to); err != nil {
		return err
	}
	open, err := l.book.gate()
	if err != nil {
		return err
	}
	defer open()
	if err := l.book.mustBeFree(to); err != nil {
		return err
	}
	if err := l.book.rename(l.name, to); err != nil {
		return fmt.Errorf("rename sandbox %q: %w", l.name, err)
	}
	l.name = to
	return nil
}

// mustBeFree fails with Conflict where there is a sandbox of that name.
func (b *Book) mustBeFree(name string) error {
	_, err := os.Lstat(b.Folder(name).Dir())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return storage(err, "look at a sandbox")
	}
	return fault.New(fault.Conflict, "Choose another name, or delete that sandbox first.",
		"there is already a sandbox %q", name)
}

// rename does the steps; the gate is closed.
func (b *Book) rename(from, to string) error {
	r, err := b.read(from)
	if err != nil {
		return err
	}
	r.RenameTo = to
	if err := b.store(b.Folder(from), r); err != nil {
		return err
	}
	if err := b.step("announced"); err != nil {
		return err
	}
	undo, err := b.moveRunDir(from, to)
	if err != nil {
		return err
	}
	if err := b.step("sockets"); err != nil {
		return err
	}
	if err := os.Rename(b.Folder(from).Dir(), b.Folder(to).Dir()); err != nil {
		return errors.Join(storage(err, "move the sandbox's folder"), undo())
	}
	if err := errors.Join(b.step("moved"), syncDir(b.dir)); err != nil {
		return err
	}
	r.Name, r.RenameTo = to, ""
	_ = b.store(b.Folder(to), r) // it is renamed already: until the next write the announcement says so
	return nil
}

// WriteKnownHosts replaces the sandbox's known_hosts file, which a program may be reading.
func (f Folder) WriteKnownHosts(text string) error {
	if err := renameio.WriteFile(f.KnownHosts(), []byte(text), 0o600); err != nil {
		return storage(err, "write the sandbox's known_hosts")
	}
	return nil
}

// store writes a record in its stored form.
func (b *Book) store(folder Folder, r Record) error {
	data, err := encode(r)
	if err == nil {
		err = b.replace(folder, data)
	}
	if err != nil {
		return storage(err, "write the record")
	}
	return nil
}

// moveRunDir moves the sockets of a running sandbox: a socket goes on listening
// under its new path. What an earlier sandbox of the new name left is dead.
func (b *Book) moveRunDir(from, to string) (undo func() error, err error) {
	old, now := b.Folder(from).RunDir(), b.Folder(to).RunDir()
	if _, err := os.Lstat(old); errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, nil
	}
	if err := b.Folder(to).RemoveRunDir(); err != nil {
		return nil, err
	}
	if err := os.Rename(old, now); err != nil {
		return nil, storage(err, "move the socket folder")
	}
	return func() error { return os.Rename(now, old) }, nil
}

// sweepSockets removes folders of dead sockets that no sandbox of this home has:
// a rename that was cut short leaves one. In the far place those of other homes
// look the same and stay.
func (b *Book) sweepSockets() error {
	entries, err := os.ReadDir(filepath.Join(b.home, "run"))
	if err != nil || len(entries) == 0 {
		return nil // none was made yet
	}
	open, err := b.gate()
	if err != nil {
		return err
	}
	defer open()
	names, err := b.Names()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, name := range names {
		known[b.Folder(name).RunDir()] = true
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(b.home, "run", e.Name())
		if _, err := hex.DecodeString(e.Name()); err == nil && len(e.Name()) == 2*nearIDLen && !known[path] {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}
