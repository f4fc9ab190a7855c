package host

import (
	"os"

	"golang.org/x/sys/unix"
)

// openFiles is the soft limit of open files.
func openFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// clockSynced is only asked on Linux.
func clockSynced() bool { return true }

// reflink makes a copy that shares the file's blocks, or fails.
func reflink(from *os.File, name string) error { return unix.Clonefile(from.Name(), name, 0) }
