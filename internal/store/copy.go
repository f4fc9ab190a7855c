package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
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
	target, err := clone(source, to)
	if err != nil {
		if err := s.Reserve(identity.Blocks * 512); err != nil {
			return err
		}
		if target, err = createFile(to); err != nil {
			return err
		}
		if err := copySparse(ctx, source, target, identity.Size); err != nil {
			return errors.Join(err, target.Close())
		}
	}
	return s.finish(target, 0o444)
}

// copySparse copies the data of a file and leaves its holes.
func copySparse(ctx context.Context, from, to *os.File, size int64) error {
	if err := to.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		begin, end, err := nextData(from, at, size)
		if err != nil || begin >= size {
			return err
		}
		if err := copyRange(ctx, from, to, begin, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// nextData finds the next bytes that are no hole; all are data where a file system
// does not know holes.
func nextData(file *os.File, at, size int64) (begin, end int64, err error) {
	begin, err = file.Seek(at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return size, size, nil
	case err != nil:
		return at, size, nil //nolint:nilerr // as documented
	}
	end, err = file.Seek(begin, unix.SEEK_HOLE)
	return begin, end, err
}

// copyRange copies in parts, so that it can be ended.
func copyRange(ctx context.Context, from, to *os.File, begin, end int64) error {
	const part = 8 << 20
	for at := begin; at < end; at += part {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(part, end-at)
		if _, err := to.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(to, io.NewSectionReader(from, at, n), n); err != nil {
			return err
		}
	}
	return nil
}
