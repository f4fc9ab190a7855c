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
	if err := s.sweep(ctx, temps); !isForbidden(err) {
		return err
	}
	return nil // a store we cannot write to: its owner's next run does it
}

func (s *Store) sweep(ctx context.Context, temps []os.DirEntry) error {
	var dead []string
	err := s.retiring(ctx, func(*bin) error {
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
		return errors.Join(err, s.detach(dead...))
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
