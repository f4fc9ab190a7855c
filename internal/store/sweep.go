package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/manifest"
)

// metaPrefix begins the names in tmp of work done under the store's lock; other
// names begin with the key of the claim they belong to.
const metaPrefix = "meta-"

// Sweep removes what killed processes left in tmp: everything whose lock is
// free. Names it does not know belong to another version and stay. It costs one
// directory read when there is nothing to do.
func (s *Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.tmp)
	if err != nil || len(entries) == 0 {
		return err
	}
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	err = s.removeTemps(metaPrefix)
	if err := errors.Join(err, lock.Unlock()); err != nil {
		return err
	}
	for _, entry := range entries {
		key, _, _ := strings.Cut(entry.Name(), "-")
		if manifest.IsSHA256(key) {
			err = errors.Join(err, s.sweepKey(key))
		}
	}
	return err
}

// sweepKey leaves alone what a living process works on.
func (s *Store) sweepKey(key string) error {
	lock := s.newLock(key)
	held, err := lock.TryLock()
	if err != nil || !held {
		return err
	}
	return errors.Join(s.removeTemps(key+"-"), lock.Unlock())
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
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.tmp, entry.Name())))
		}
	}
	return err
}
