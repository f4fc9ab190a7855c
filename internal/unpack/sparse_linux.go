package unpack

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// punch gives a part of the file back to the file system. A part that ends the
// file is rounded up to a whole block, which would stay otherwise.
func punch(file *os.File, at, length int64) error {
	if rest := (at + length) % block; rest != 0 {
		if info, err := file.Stat(); err == nil && info.Size() == at+length {
			length += block - rest
		}
	}
	err := control(file, func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, length)
	})
	if err != nil {
		return fmt.Errorf("make a hole of %d bytes at %d: %w", length, at, err)
	}
	return nil
}

// openDirect opens the file again for writing past the page cache, or returns nil
// where the file system cannot do that.
func openDirect(file *os.File) (direct *os.File) {
	_ = control(file, func(fd int) error {
		again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err == nil {
			direct = os.NewFile(uintptr(again), file.Name()) // messages name the file, not how it was opened
		}
		return err
	})
	return direct
}

// writeBack lets the disk start on what was written. It is only a hint: an error
// of the disk is reported by the fsync that follows.
func writeBack(file *os.File, at, length int64) {
	_ = control(file, func(fd int) error {
		return unix.SyncFileRange(fd, at, length, unix.SYNC_FILE_RANGE_WRITE)
	})
}

func control(file *os.File, call func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = call(int(fd)) }); err != nil {
		return err
	}
	for errors.Is(failed, unix.EINTR) {
		if err := raw.Control(func(fd uintptr) { failed = call(int(fd)) }); err != nil {
			return err
		}
	}
	return failed
}
