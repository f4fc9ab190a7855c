package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Folder is what a file system can do, tried with small files in a folder of it.
type Folder struct {
	FreeBytes int64 // that this user can still write
	HardLinks bool  // the store shows one copy under many names
	Holes     bool  // a disk takes only the space of what was written to it
	Reflinks  bool  // copies share their blocks
	Locks     bool  // flock works: network file systems may lack it
}

// holeTest is the size of the file that shows whether there are holes, in bytes:
// far larger than any block, and no burden where there are none.
const holeTest = 1 << 20

// Try finds out what the file system of dir can do, which must exist. What it
// writes is gone when it returns; after a crash an empty folder .try-* stays.
func Try(dir string) (f Folder, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return f, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	f.FreeBytes = int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // the types differ between systems
	work, err := os.MkdirTemp(dir, ".try-")
	if err != nil {
		return f, fmt.Errorf("try the file system of %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	return f, f.try(work)
}

func (f *Folder) try(work string) error {
	name := filepath.Join(work, "a")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(holeTest); err != nil {
		return err
	}
	if _, err := file.WriteAt(make([]byte, 512), 0); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := errors.Join(file.Sync(), unix.Fstat(int(file.Fd()), &st)); err != nil {
		return err
	}
	f.Holes = st.Blocks*512 < holeTest/2
	f.HardLinks = os.Link(name, name+"-link") == nil
	f.Reflinks = reflink(file, name+"-copy") == nil
	f.Locks = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	return nil
}
