//go:build linux

package boot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is the kernel's EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64), a number of blocks.
const resizeFS = 0x40086610

// grow makes the mounted file system as large as its drive, which the host may
// have made larger while the machine was off. A kernel that is stopped in the
// middle has added whole groups of blocks only: the next boot goes on.
func grow(drive, mounted string) error {
	device, err := os.Open(drive)
	if err != nil {
		return fmt.Errorf("open drive: %w", err)
	}
	defer device.Close()
	head := make([]byte, 1024+512)
	if _, err := io.ReadFull(device, head); err != nil {
		return fmt.Errorf("read drive %s: %w", drive, err)
	}
	size, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("measure drive %s: %w", drive, err)
	}
	has, block := extent(head)
	want := uint64(size) / block
	if want <= has {
		return nil
	}
	dir, err := os.Open(mounted) // through a handle that only names the folder, too
	if err != nil {
		return fmt.Errorf("grow scratch: %w", err)
	}
	defer dir.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeFS, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return fmt.Errorf("grow scratch from %d to %d blocks: %w", has, want, errno)
	}
	return nil
}

// extent reads the number of blocks and their size from an ext4 file system's
// start; the upper half of the number counts only with the feature "64bit".
func extent(head []byte) (blocks, size uint64) {
	const super, feature64 = 1024, 0x80
	number := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(head[super+at:])) }
	blocks, size = number(0x04), 1024<<min(number(0x18), 6)
	if number(0x60)&feature64 != 0 {
		blocks |= number(0x150) << 32
	}
	return blocks, size
}

// GrowScratch waits until the scratch drive, whose device the host makes larger
// meanwhile, has so many bytes, and makes the file system as large. It gives the
// size that the drive has.
func (r *Root) GrowScratch(ctx context.Context, size int64) (int64, error) {
	var has int64
	err := Await(ctx, func() (enough bool, err error) {
		has, err = measure(r.drive)
		return has >= size, err
	})
	if err != nil {
		return has, fmt.Errorf("wait for a drive of %d bytes: %w", size, err)
	}
	return has, grow(r.drive, fmt.Sprintf("/proc/self/fd/%d", r.scratch.Fd()))
}

// measure gives the size of a drive in bytes.
func measure(drive string) (int64, error) {
	device, err := os.Open(drive)
	if err != nil {
		return 0, fmt.Errorf("open drive: %w", err)
	}
	defer device.Close()
	size, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("measure drive %s: %w", drive, err)
	}
	return size, nil
}
