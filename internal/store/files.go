package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sparse"
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

// The file operations that change the store go through the methods below. After
// each of them did, if it is set, is told: tests stop the process there, and
// check that whatever is renamed was synced before.

func (s *Store) told(op, path string, err error) error {
	if err == nil && s.did != nil {
		s.did(op, path)
	}
	return err
}

// writeFile makes a new file with exactly these bytes, on disk when it returns.
func (s *Store) writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := sparse.Create(path)
	if s.told("create", path, err) != nil {
		return err
	}
	if _, err = f.Write(data); s.told("write", path, err) != nil {
		return errors.Join(err, f.Close())
	}
	return s.finish(f, mode)
}

// finish gives a file its mode whatever the umask, and waits for the disk.
func (s *Store) finish(f *os.File, mode fs.FileMode) error {
	err := s.told("chmod", f.Name(), f.Chmod(mode))
	if err == nil {
		err = s.told("sync", f.Name(), f.Sync())
	}
	return errors.Join(err, f.Close())
}

func (s *Store) rename(from, to string) error {
	return s.told("rename "+from, to, os.Rename(from, to))
}

func (s *Store) remove(path string) error {
	return s.told("remove", path, os.Remove(path))
}

func (s *Store) removeAll(path string) error {
	return s.told("remove all", path, os.RemoveAll(path))
}

func (s *Store) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return s.told("sync", dir, errors.Join(d.Sync(), d.Close()))
}

// makeTemp makes a new folder in tmp.
func (s *Store) makeTemp(prefix string) (string, error) {
	dir, err := os.MkdirTemp(s.tmp, prefix)
	return dir, s.told("mkdir", dir, err)
}

// replace puts bytes at a path in one step; the caller holds the store's lock.
func (s *Store) replace(path string, data []byte) error {
	dir, err := s.makeTemp(metaPrefix)
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, "new")
	err = s.writeFile(temp, data, 0o644)
	if err == nil {
		err = s.rename(temp, path)
	}
	if err == nil {
		err = s.syncDir(filepath.Dir(path))
	}
	return errors.Join(err, s.removeAll(dir))
}

// setAside gives a folder of another user, which cannot be moved to another
// folder nor emptied, a name that means nothing to the store.
func (s *Store) setAside(path string) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".planted-")
	if err == nil {
		err = os.Remove(dir) // only the name is wanted: nothing is renamed over a folder
	}
	if err != nil {
		return err
	}
	return s.rename(path, dir)
}
