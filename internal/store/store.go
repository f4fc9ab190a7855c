// Package store keeps expanded images once, however many releases and presets
// share them, and knows without reading them whether they are still what was
// verified.
//
//	store/objects/KEY/content      the expanded file, 0444
//	store/objects/KEY/index.json   its frame index; KEY is the SHA-256 of this file
//	store/objects/KEY/record.json  where it came from, and the content's identity on disk
//	store/objects/KEY/archive.zst  the published archive, only if somebody asked for it
//	store/partial/KEY/             what is being downloaded, resumed by the next claim; unverified
//	store/leases/                  one locked file per process that needs objects to stay
//	store/locks/                   one lock file per KEY, one for the store, one for copies
//	store/tmp/                     work in progress; nothing in it is ever used
//	images/RELEASE/PRESET-ARCH-VMM/  the same files for people: hard links and .from-sha256 sidecars
//
// KEY commits to every expanded byte, so an object can be shared by catalogues
// that do not trust each other. Everything is made in store/tmp or store/partial,
// fsynced, and renamed into place, folders fsynced too: after a crash an object or
// a view is there as a whole or not at all, and the next run removes what is in
// tmp. docs/decisions/format-store.md has the table of every step.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// Store is the cache under one home folder. It holds nothing open; any number
// of processes may use the same folder.
type Store struct {
	home, objects, partials, locks, leases, tmp, images string

	now  func() time.Time
	link func(from, to string) error // hard link
	did  func(op, path string)       // nil, or told after each operation that changes the store

	waiting func(lock string) (over func()) // nil, or told of a long wait
}

// Option changes how a store is opened.
type Option func(*Store)

// Waiting lets tell be called when a lock that is held for milliseconds has not
// come for a second, and what it returns when the waiting is over. Calls may come
// from several goroutines.
func Waiting(tell func(lock string) (over func())) Option {
	return func(s *Store) { s.waiting = tell }
}

// Open checks the folders under home and makes those that are missing. A store
// that cannot be written is fine as long as nothing has to be added.
func Open(home string, options ...Option) (*Store, error) {
	base := filepath.Join(home, "store")
	s := &Store{
		home:     home,
		objects:  filepath.Join(base, "objects"),
		partials: filepath.Join(base, "partial"),
		locks:    filepath.Join(base, "locks"),
		leases:   filepath.Join(base, "leases"),
		tmp:      filepath.Join(base, "tmp"),
		images:   filepath.Join(home, "images"),
		now:      time.Now,
		link:     os.Link,
	}
	for _, option := range options {
		option(s)
	}
	if err := makeHome(home); err != nil {
		return nil, err
	}
	for _, dir := range []string{base, s.objects, s.locks, s.tmp, s.images} {
		if err := ensureDir(dir); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{s.partials, s.leases} { // newer than the others
		if err := ensureDir(dir); err != nil && !isForbidden(err) {
			return nil, err
		}
	}
	return s, nil
}

// makeHome makes the cache folder. A symbolic link to one will do; one that leads
// nowhere may be a disk that is not mounted, so nothing is made there.
func makeHome(home string) error {
	err := os.MkdirAll(home, 0o755)
	if target, link := os.Readlink(home); link == nil && errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Storage, "Mount or make that folder, or remove the link.",
			"make the cache folder %s: it is a symbolic link to %s, which is not there", home, target)
	}
	if err != nil {
		return storage(home, "make the cache folder", err)
	}
	return nil
}

// Home is the folder the store was opened with.
func (s *Store) Home() string { return s.home }

// Free is the space that the store's file system has left for this user, bytes.
func (s *Store) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.tmp, &st); err != nil {
		return 0, storage(s.tmp, "ask for the free space", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // the types differ between systems
}

// Reserve checks that need bytes fit, with a margin for everything else on the
// file system, and names both numbers when they do not.
func (s *Store) Reserve(need int64) error {
	free, err := s.Free()
	if err != nil {
		return err
	}
	if free < need+margin {
		return fault.New(fault.Storage, spaceHint,
			"store images in %s: %d bytes are needed, %d are free", s.home, need+margin, free)
	}
	return nil
}

const (
	// margin is left free for records, a scratch disk's first writes and others.
	margin    = 64 << 20
	spaceHint = "Free some space (smolvm prune helps), or put the cache elsewhere with SMOLVM_HOME."
)

// Explain turns a system error about space or permission under home into a
// fault that says what to do; other errors are returned as they are.
func (s *Store) Explain(err error) error {
	var known *fault.Fault
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch {
	case isFull(err):
		return full(s.tmp, err)
	case isForbidden(err):
		return fault.New(fault.Storage, writeHint, "%w", err)
	}
	return err
}

const writeHint = "Check the folder's owner and permissions, or put the cache elsewhere with SMOLVM_HOME."

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func isForbidden(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// full says what a full file system has no room for: bytes, or names of files. One
// that does not count those says 0 of 0.
func full(dir string, err error) error {
	var st unix.Statfs_t
	_ = unix.Statfs(dir, &st) // a folder that is gone: 0 bytes
	if st.Files > 0 && st.Ffree == 0 {
		return fault.New(fault.Storage, inodeHint, "%w (the file system of %s has no inode left for another file)", err, dir)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ between systems
	return fault.New(fault.Storage, spaceHint, "%w (%d bytes are free in %s)", err, free, dir)
}

const inodeHint = "Delete files that nobody needs from that file system (smolvm prune helps), or put the cache elsewhere with SMOLVM_HOME."

func storage(path, attempt string, err error) error {
	err = fmt.Errorf("%s %s: %w", attempt, path, err)
	var known *fault.Fault
	switch {
	case errors.As(err, &known): // says what to do already
		return err
	case isFull(err):
		return full(filepath.Dir(path), err)
	}
	return fault.New(fault.Storage, writeHint, "%w", err)
}
