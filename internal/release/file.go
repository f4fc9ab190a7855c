package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// margin is left free on the destination's file system, bytes.
const margin = 16 << 20

const spaceHint = "Free some space there, or choose another destination."

// MayWrite refuses a place where no file can be written, before work is done for it.
func MayWrite(path string) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return fault.New(fault.Usage, "Name a file, or write to standard output.", "write %s: there is %s already", path, kind(info.Mode()))
	}
	dir := filepath.Dir(path)
	info, err := os.Stat(dir)
	if err == nil && info.IsDir() {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	} else if err == nil {
		err = unix.ENOTDIR
	}
	if err != nil {
		return explain(dir, err)
	}
	return nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "something that is not a file"
}

// openPart opens the file that grows beside a final one, or makes it, and holds
// it: two processes never write the same part. What an earlier run left is kept.
// Anything that is not a plain file of this user's own is removed first.
func openPart(path string) (*os.File, error) {
	for range 10 { // each turn somebody else has just renamed or removed it
		file, err := openOwn(path)
		if err != nil {
			return nil, fault.New(fault.Storage, "Check the folder's owner and permissions.", "write %s: %w", path, err)
		}
		held, err := hold(file)
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if held {
			return file, nil
		}
		file.Close()
	}
	return nil, fault.New(fault.Conflict, "Wait for it, or choose another destination.", "write %s: somebody else keeps replacing it", path)
}

// hold locks an open part; false means that its name has another file by now.
func hold(file *os.File) (bool, error) {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, fault.New(fault.Conflict, "Wait for it, or choose another destination.",
			"write %s: another smolvm is writing it", file.Name())
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	mine, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Lstat(file.Name())
	return err == nil && os.SameFile(mine, named), nil
}

func openOwn(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW | unix.O_NONBLOCK
	file, err := os.OpenFile(path, flags, 0o644)
	if err == nil && isOwn(file) {
		return file, nil
	}
	if err == nil {
		file.Close()
	} else if info, missing := os.Lstat(path); missing != nil || info.Mode().IsRegular() {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, flags|os.O_EXCL, 0o644)
}

// isOwn refuses files that somebody else may still write to.
func isOwn(file *os.File) bool {
	var st unix.Stat_t
	err := unix.Fstat(int(file.Fd()), &st)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && int(st.Uid) == os.Geteuid()
}

// place gives a finished part its final name, on disk when it returns, and
// closes it. What has that name is replaced.
func place(part *os.File, path string) error {
	if err := errors.Join(part.Sync(), os.Rename(part.Name(), path)); err != nil {
		return errors.Join(err, part.Close())
	}
	return errors.Join(part.Close(), syncDir(filepath.Dir(path)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// reserve checks that need bytes fit into a folder, and names both numbers.
func reserve(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fault.New(fault.Storage, "", "ask for the free space of %s: %w", dir, err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ between systems
	if free < need+margin {
		return fault.New(fault.Storage, spaceHint, "write to %s: %d bytes are needed, %d are free", dir, need+margin, free)
	}
	return nil
}

// explain turns an error of the file system into a fault that says what to do.
func explain(dir string, err error) error {
	var known *fault.Fault
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG):
		return fault.New(fault.Storage, spaceHint, "write to %s: %w", dir, err)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrExist):
		return fault.New(fault.Usage, "Choose another place, or make the folder first.", "write to %s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS):
		return fault.New(fault.Storage, "Check the folder's owner and permissions.", "write to %s: %w", dir, err)
	}
	return err
}
