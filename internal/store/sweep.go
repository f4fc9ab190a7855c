package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Names in tmp begin with the lock that their maker holds: metaPrefix for the
// store's, copyPrefix for that of copies, a key for that claim's; what begins with
// binPrefix is retired, and is locked itself. Other names belong to another version
// and stay.
const (
	metaPrefix = "meta-"
	binPrefix  = "bin-"
)

// Sweep removes what killed processes left in tmp and among the leases:
// everything whose lock is free. It costs two directory reads when there is
// nothing to do.
func (s *Store) Sweep(ctx context.Context) error {
	temps, err := os.ReadDir(s.tmp)
	if err != nil {
		return err
	}
	leases, err := os.ReadDir(s.leases)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(temps) == 0 && !s.anyDead(leases) {
		return nil
	}
	return s.sweep(ctx, temps)
}

func (s *Store) sweep(ctx context.Context, temps []os.DirEntry) error {
	var dead []string
	err := s.retiring(ctx, func(string) error {
		for _, temp := range temps {
			path := filepath.Join(s.tmp, temp.Name())
			if s.isDead(temp.Name()) {
				dead = append(dead, path)
			}
		}
		_, leases, _, err := s.held()
		for _, path := range leases {
			err = errors.Join(err, s.removeAll(path))
		}
		for _, path := range dead {
			err = errors.Join(err, s.detach(path))
		}
		return err
	})
	for _, path := range dead {
		err = errors.Join(err, s.removeAll(path))
	}
	return err
}

func (s *Store) anyDead(leases []os.DirEntry) bool {
	for _, lease := range leases {
		if strings.HasPrefix(lease.Name(), leasePrefix) && !isLeased(filepath.Join(s.leases, lease.Name())) {
			return true
		}
	}
	return false
}

// isDead tells whether nobody works on that entry of tmp any more. The caller
// holds the store's lock. Once free, the lock of a name is of no use to it again:
// every work makes a new name.
func (s *Store) isDead(name string) bool {
	key, _, _ := strings.Cut(name, "-")
	switch {
	case strings.HasPrefix(name, metaPrefix):
		return true
	case strings.HasPrefix(name, binPrefix):
		return s.isAbandoned(filepath.Join(s.tmp, name))
	case strings.HasPrefix(name, copyPrefix):
		return s.isFree(copyLock)
	case manifest.IsSHA256(key):
		return s.isFree(key)
	}
	return false
}

func (s *Store) isFree(name string) bool {
	lock, err := s.try(name)
	return err == nil && lock != nil && lock.Unlock() == nil
}

// isAbandoned tells whether nobody is emptying that bin.
func (s *Store) isAbandoned(bin string) bool {
	file, err := lockFolder(bin)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false
	}
	return err != nil || file.Close() == nil // what is no folder is no bin
}

// removeTemps deletes the entries of tmp with that prefix, whose lock the caller
// holds.
func (s *Store) removeTemps(prefix string) error {
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			err = errors.Join(err, s.removeAll(filepath.Join(s.tmp, entry.Name())))
		}
	}
	return err
}

// retiring does work under the store's lock. What the work retires to the bin is
// deleted when the lock is free again: that can take a while. A lock on the bin
// itself tells others that somebody is at it.
func (s *Store) retiring(ctx context.Context, work func(bin string) error) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	bin, err := s.makeTemp(binPrefix)
	if err != nil {
		return errors.Join(err, lock.Unlock())
	}
	mine, err := lockFolder(bin)
	if err == nil {
		defer mine.Close()
		err = work(bin)
	}
	err = errors.Join(err, s.detach(bin), lock.Unlock())
	return errors.Join(err, s.removeAll(bin))
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

// detach unlinks, below a retired folder, the further links of objects that stay,
// and records the objects' identities again. The caller holds the store's lock.
func (s *Store) detach(dir string) error {
	var links []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && links1(path) > 1 {
			links = append(links, path)
		}
		return nil //nolint:nilerr // what cannot be looked at is not deleted either
	})
	if err != nil || len(links) == 0 {
		return err
	}
	return s.unlink(links)
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
	entries, _ := os.ReadDir(s.objects)
	for _, entry := range entries {
		if !manifest.IsSHA256(entry.Name()) || s.look(entry.Name()).State != Ready {
			continue
		}
		if identity, err := identify(filepath.Join(s.folder(entry.Name()), contentFile)); err == nil {
			ready[identity.Inode] = entry.Name()
		}
	}
	return ready
}

// links1 is the number of a file's names.
func links1(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return uint64(st.Nlink) //nolint:unconvert // the types differ between systems
}
