package record

import (
	"io/fs"
	"path/filepath"
	"syscall"
)

// Allocated is what the sandbox's folder takes on the disk in bytes: its files are
// sparse, and images are elsewhere. What vanishes meanwhile counts nothing.
func (f Folder) Allocated() int64 {
	var sum int64
	_ = filepath.WalkDir(f.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone, or not to be read: the rest still counts
		}
		if info, err := entry.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	return sum
}
