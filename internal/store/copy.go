package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/smolvm/smolvm/internal/sparse"
)

// copyPrefix begins the names in tmp of copies in the making, and copyLock is the
// lock they are made under: the store's would be held too long.
const (
	copyPrefix = "copy-"
	copyLock   = "copies"
)

// showCopies shows a view where hard links are impossible: on another file
// system, beyond the limit of links, on one that has none.
func (s *Store) showCopies(ctx context.Context, v View) (err error) {
	lock, err := s.waitAloud(ctx, copyLock, longestPoll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if s.isShown(v) {
		return nil
	}
	dir, err := s.makeTemp(copyPrefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.removeAll(dir)) }()
	for _, f := range v.Files {
		for name, from := range s.shown(f) {
			if err := s.copyFile(ctx, from, filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("copy %s: %w", f.Name, err)
			}
		}
	}
	return s.retiring(ctx, func(b *bin) error { return s.show(v, b, dir) })
}

// copyFile makes a copy that shares its blocks with the original where the file
// system can do that, and its holes everywhere.
func (s *Store) copyFile(ctx context.Context, from, to string) error {
	source, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	identity, err := identifyOpen(source)
	if err != nil {
		return err
	}
	target, err := sparse.Clone(source, to)
	if err != nil {
		if err := s.Reserve(identity.Blocks * 512); err != nil {
			return err
		}
		if target, err = sparse.Create(to); err != nil {
			return err
		}
		if err := sparse.Copy(ctx, source, target, identity.Size); err != nil {
			return errors.Join(err, target.Close())
		}
	}
	return s.finish(target, 0o444)
}
