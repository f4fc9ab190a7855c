package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/fault"
)

// ensureDir makes a folder that others may read and only its owner may write.
// A symbolic link is refused: the home folder itself may be one, what is in it
// may not, because whoever could plant it could choose what gets booted.
func ensureDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
			return storage(dir, "make the cache folder", err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return storage(dir, "make the cache folder", err)
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return storage(dir, "open the cache folder", err)
	case !info.IsDir():
		return fault.New(fault.Storage, "Remove it, or put the cache elsewhere with SMOLVM_HOME.",
			"open the cache folder %s: it is not a folder (%s)", dir, info.Mode().Type())
	case info.Mode().Perm()&0o022 != 0:
		return closeDir(dir)
	}
	return nil
}

// closeDir takes away the others' right to write, which a umask of 000 may have
// given in an earlier life.
func closeDir(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return fault.New(fault.Storage, "Its owner can fix that: chmod go-w "+dir,
			"open the cache folder %s: other users can write to it", dir)
	}
	return nil
}

// writeFile makes a new file with exactly these bytes, on disk when it returns.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := createFile(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, finish(f, mode))
}

// createFile never opens something that exists, be it a link, a device or a file.
func createFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
}

// finish gives a file its mode whatever the umask, and waits for the disk.
func finish(f *os.File, mode fs.FileMode) error {
	return errors.Join(f.Chmod(mode), f.Sync(), f.Close())
}

// readFile reads a regular file of bounded size and follows no link.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read %s: not a regular file", path)
	case info.Size() > limit:
		return nil, fmt.Errorf("read %s: %d bytes, at most %d are allowed", path, info.Size(), limit)
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(f, data)
	return data, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// publish moves a finished folder of tmp to its place. What is there goes away
// first, and a crash between the two leaves nothing there.
func (s *Store) publish(from, to string) error {
	if err := s.retire(to); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(from, 0o755), syncDir(from)); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// retire takes something out of its place in one step and then deletes it. A
// symbolic link goes itself, never what it points to.
func (s *Store) retire(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	bin, err := os.MkdirTemp(s.tmp, metaPrefix)
	if err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(bin, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(bin))
	}
	return errors.Join(syncDir(filepath.Dir(path)), os.RemoveAll(bin))
}

// Identity is what a file system says about a file without reading it. A change
// of the content changes at least ctime, which no program can set back.
type Identity struct {
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime_ns"`
	CTime  int64  `json:"ctime_ns"`
	Inode  uint64 `json:"inode"`
	Blocks int64  `json:"blocks"` // of 512 bytes
}

// identify looks at a regular file, not through a link.
func identify(path string) (Identity, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Identity{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return identityOf(path, &st)
}

func identifyOpen(f *os.File) (Identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Identity{}, &fs.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return identityOf(f.Name(), &st)
}

func identityOf(path string, st *unix.Stat_t) (Identity, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Identity{}, fmt.Errorf("look at %s: not a regular file", path)
	}
	return Identity{
		Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(),
		Inode: st.Ino, Blocks: st.Blocks,
	}, nil
}
