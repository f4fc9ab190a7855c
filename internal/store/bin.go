package store

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// bin is what is taken out of its place in one step each, and deleted later: that
// can take a while. It needs no space, so that a full disk can be cleared.
type bin struct {
	store  *Store
	prefix string // of the names in tmp
	paths  []string
	locks  []*os.File // tell others that somebody deletes them
}

// retiring does work under the store's lock. What the work retires is deleted when
// the lock is free again.
func (s *Store) retiring(ctx context.Context, work func(*bin) error) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	b := &bin{store: s, prefix: binPrefix}
	err = work(b)
	err = errors.Join(err, s.detach(b.paths...), lock.Unlock())
	return errors.Join(err, b.empty())
}

// retire moves something out of its place for good. A symbolic link goes itself,
// never what it points to.
func (b *bin) retire(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := b.move(path); err != nil {
		return err
	}
	return b.store.syncDir(filepath.Dir(path))
}

// move is retire without waiting for the disk.
func (b *bin) move(path string) error {
	to := b.name()
	err := b.store.rename(path, to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission):
		return b.store.setAside(path)
	case err != nil:
		return err
	}
	b.paths = append(b.paths, to)
	if file, err := lockFolder(to); err == nil {
		b.locks = append(b.locks, file)
	}
	return nil
}

// name is one that is not taken: nobody else makes such names at the same time.
func (b *bin) name() string {
	for {
		path := filepath.Join(b.store.tmp, b.prefix+strconv.FormatUint(rand.Uint64(), 10))
		if _, err := os.Lstat(path); err != nil {
			return path
		}
	}
}

// empty deletes what was retired.
func (b *bin) empty() error {
	var failed error
	for _, path := range b.paths {
		failed = errors.Join(failed, b.store.removeAll(path))
	}
	for _, lock := range b.locks {
		_ = lock.Close()
	}
	b.paths, b.locks = nil, nil
	return failed
}

// lockFolder locks a folder until it is closed, or fails if it is locked.
func lockFolder(path string) (*os.File, error) {
	file, err := openFolder(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// detach unlinks, below retired folders, the further links of objects that stay,
// and records the objects' identities again. The caller holds the store's lock.
// On a full disk nothing can be recorded: the next launch verifies the objects.
func (s *Store) detach(dirs ...string) error {
	var links []string
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && linksOf(path) > 1 {
				links = append(links, path)
			}
			return nil //nolint:nilerr // what cannot be looked at is not deleted either
		})
	}
	if len(links) == 0 {
		return nil
	}
	if err := s.unlink(links); !isFull(err) {
		return err
	}
	return nil
}

func (s *Store) unlink(links []string) error {
	ready, touched := s.ready(), map[string]record{}
	for _, path := range links {
		identity, err := identify(path)
		if err != nil {
			continue
		}
		key, stays := ready[identity.Inode]
		if !stays {
			continue
		}
		rec, err := s.readRecord(key)
		if err != nil {
			continue
		}
		if err := s.remove(path); err != nil {
			return err
		}
		touched[key] = rec
	}
	return s.relearn(touched)
}

// ready are the keys of the Ready objects by the inodes of their contents.
func (s *Store) ready() map[uint64]string {
	ready := map[uint64]string{}
	keys, _ := keysIn(s.objects) // none: nothing is unlinked early
	for _, key := range keys {
		if s.look(key).State != Ready {
			continue
		}
		if identity, err := identify(filepath.Join(s.folder(key), contentFile)); err == nil {
			ready[identity.Inode] = key
		}
	}
	return ready
}

// linksOf is the number of a file's names.
func linksOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return uint64(st.Nlink) //nolint:unconvert // the types differ between systems
}
