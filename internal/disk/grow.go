package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
)

// GrowScratch makes a scratch larger: the file gets a longer hole, and the guest
// grows the file system into it when it mounts that. Making it smaller is refused:
// nobody knows here what is at its end. A crash leaves the old size or the new one.
func GrowScratch(path string, size int64) error {
	if size > MaxScratch || size%4096 != 0 {
		return fault.New(fault.Usage, fmt.Sprintf("Choose a size up to %d TiB.", MaxScratch>>40),
			"a disk of %d bytes cannot be made", size)
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return explain(err, "scratch disk", path, 0)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return explain(err, "scratch disk", path, 0)
	case !info.Mode().IsRegular():
		return fault.New(fault.Storage, "Delete the sandbox.", "%s is not a regular file", path)
	case size < info.Size():
		return fault.New(fault.Usage, "Make a new sandbox with a smaller --disk, and copy what is needed.",
			"a disk cannot be made smaller: it has %d bytes, %d were asked for", info.Size(), size)
	case size == info.Size():
		return nil
	}
	if err := requireFileSize(size); err != nil {
		return err
	}
	need := scratchNeed(size) - scratchNeed(info.Size())
	if err := requireSpace(filepath.Dir(path), need); err != nil {
		return err
	}
	if err = f.Truncate(size); err == nil {
		err = f.Sync()
	}
	return explain(err, "scratch disk", path, need)
}
