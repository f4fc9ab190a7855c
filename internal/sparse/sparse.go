// Package sparse copies files as large as disks: a copy shares its blocks with the
// original where the file system can do that, and has its holes everywhere.
//
// Inputs are files and paths; the output is a new file that its owner alone can read.
// A crash in the middle leaves a part of it under its final name: callers copy into
// folders that they remove then.
package sparse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// CopyFile makes a copy of a file, which is on disk when it returns. After an error
// there is none.
func CopyFile(ctx context.Context, from, to string) error {
	source, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("copy %s: not a regular file", from)
	}
	target, err := Clone(source, to)
	if err != nil {
		if target, err = Create(to); err != nil {
			return err
		}
		err = Copy(ctx, source, target, info.Size())
	}
	if err = errors.Join(err, target.Chmod(0o600), target.Sync(), target.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// Create makes a file. It never opens something that exists, be it a link, a device or
// a file.
func Create(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
}

// Copy copies the data of a file to an empty one and leaves its holes.
func Copy(ctx context.Context, from, to *os.File, size int64) error {
	if err := to.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		begin, end, err := nextData(from, at, size)
		if err != nil || begin >= size {
			return err
		}
		if err := copyRange(ctx, from, to, begin, min(end, size)); err != nil {
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
