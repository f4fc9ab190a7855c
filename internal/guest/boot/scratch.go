//go:build linux

package boot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Runner runs a program with its root changed and returns its output when it fails.
type Runner func(ctx context.Context, chroot string, env, argv []string) error

// prepare formats a blank scratch. A drive that holds anything else is refused:
// what it holds might be somebody's.
func (b Builder) prepare(ctx context.Context, state content, layers []string, drive string) error {
	if state == foreign {
		return fmt.Errorf("scratch drive %s holds something that is not ext4", drive)
	}
	return b.format(ctx, layers, drive)
}

// mountScratch mounts the scratch file system and returns a handle on it.
func (b Builder) mountScratch(drive string) (*os.File, error) {
	// noinit_itable: the lazy zeroing thread would write the whole inode table of
	// a sparse disk. discard: deleted files give the host its space back.
	m := mount{drive, scratchDir, "ext4", unix.MS_NOATIME, "noinit_itable,discard", false}
	if err := m.do(); err != nil {
		return nil, err
	}
	if err := grow(drive, scratchDir); err != nil {
		b.Logf("%v", err) // it is as usable as it was
	}
	fd, err := unix.Open(scratchDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open scratch: %w", err)
	}
	return os.NewFile(uintptr(fd), scratchDir), nil
}

// content is what the start of a drive looks like.
type content int

const (
	blank content = iota
	ext4
	foreign
)

// inspect looks at the first 64 KiB, where every file system has its signature.
func inspect(drive string) (content, error) {
	file, err := os.Open(drive)
	if err != nil {
		return foreign, fmt.Errorf("open drive: %w", err)
	}
	defer file.Close()
	head := make([]byte, 64<<10)
	if n, err := io.ReadFull(file, head); err != nil {
		return foreign, fmt.Errorf("read drive %s: %w after %d bytes", drive, err, n)
	}
	return classify(head), nil
}

func classify(head []byte) content {
	const magicOffset, magic = 1024 + 56, 0xEF53
	if binary.LittleEndian.Uint16(head[magicOffset:]) == magic {
		return ext4
	}
	for _, b := range head {
		if b != 0 {
			return foreign
		}
	}
	return blank
}

// format runs the base layer's mkfs.ext4. It is the way of hosts without one.
func (b Builder) format(ctx context.Context, layers []string, drive string) error {
	if len(layers) == 0 {
		return fmt.Errorf("scratch drive %s is blank and there is no base layer whose mkfs.ext4 could format it", drive)
	}
	b.Working("formatting the scratch disk")
	base := layers[0]
	dev := filepath.Join(base, "dev")
	if err := unix.Mount("/dev", dev, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show devices to the base layer: %w", err)
	}
	defer unix.Unmount(dev, unix.MNT_DETACH)
	argv := []string{
		"/usr/sbin/mkfs.ext4", "-q", "-F",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,nodiscard", drive,
	}
	if err := b.Run(ctx, base, []string{"PATH=/usr/sbin:/usr/bin", "MKE2FS_SYNC=0"}, argv); err != nil {
		return fmt.Errorf("format scratch drive %s: %w", drive, err)
	}
	return nil
}
