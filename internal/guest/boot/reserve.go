//go:build linux

package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The reserve is a file on the scratch that holds room for the next start: Linux mounts
// an overlay whose disk is full read-only, and a start has to write.
const (
	reserveName = "reserve"
	reserveSize = 4 << 20  // bytes; a start writes less than one MiB
	reserveFrom = 64 << 20 // bytes that have to be free before they are held
)

// freeReserve gives the room that is held to a start that has none.
func freeReserve(scratch string) error {
	free, err := freeBytes(scratch)
	if err != nil || free >= reserveSize {
		return err
	}
	err = os.Remove(filepath.Join(scratch, reserveName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make room on the full disk: %w", err)
	}
	return syncFS(scratch) // ext4 gives blocks away again only then
}

// writable refuses a root that Linux mounted read-only.
func writable(root string) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(root, &disk); err != nil {
		return fmt.Errorf("look at the root: %w", err)
	}
	if disk.Flags&unix.ST_RDONLY != 0 {
		return errors.New("the sandbox's disk is full: a start has no room to write; smolvm resize --disk makes it larger")
	}
	return nil
}

// KeepReserve holds room for the next start, once there is enough.
func (r *Root) KeepReserve() error {
	at := fmt.Sprintf("/proc/self/fd/%d", r.scratch.Fd())
	free, err := freeBytes(at)
	if err != nil || free < reserveFrom {
		return err
	}
	return hold(filepath.Join(at, reserveName))
}

// hold makes the file, whole or not at all.
func hold(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("hold room for the next start: %w", err)
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, reserveSize)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("hold room for the next start: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// freeBytes counts neither root's share nor what ext4 keeps for itself: both may be used
// up although they count as free.
func freeBytes(path string) (uint64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(path, &disk); err != nil {
		return 0, fmt.Errorf("look at the scratch: %w", err)
	}
	return disk.Bavail * uint64(disk.Bsize), nil //nolint:gosec // a block has no negative size
}
