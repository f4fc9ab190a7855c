//go:build linux

package layer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Pack is one tree to be written as a layer.
type Pack struct {
	Tree   string    // the overlay's upper directory; it is cleaned in place
	Device string    // blank; its size is the upper bound
	Base   bool      // there is no layer below
	Epoch  time.Time // no time in the layer is later
	// Run starts a program and waits for it; its error holds what the program said.
	Run     func(ctx context.Context, env, argv []string) error
	Working func(text string)
}

// Attempts to find a size that fits, and by how much each adds. A file system with
// more than slackPercent of its blocks free is written again.
const (
	attempts     = 4
	growPercent  = 5
	slackPercent = 3
)

// Write cleans the tree and writes it to the device. The result depends on the
// tree's names, content and metadata alone. It returns the size in bytes of the
// file system, which begins at the device's start.
func (p Pack) Write(ctx context.Context) (int64, error) {
	if now := time.Now(); now.Before(p.Epoch) {
		return 0, fmt.Errorf("pack layer: the clock (%s) is behind the epoch %s", now.UTC().Format(time.RFC3339), p.Epoch.UTC().Format(time.RFC3339))
	}
	p.Working("cleaning the tree")
	if err := Clean(p.Tree, p.Base); err != nil {
		return 0, err
	}
	u, err := normalize(p.Tree, p.Epoch)
	if err != nil {
		return 0, err
	}
	room, err := blankSize(p.Device)
	if err != nil {
		return 0, err
	}
	blocks := u.total()
	for attempt, tight := 1, false; ; attempt++ {
		if blocks*blockSize > room {
			return 0, fmt.Errorf("pack layer: it needs %d bytes and the drive has %d: %w", blocks*blockSize, room, unix.ENOSPC)
		}
		p.Working(fmt.Sprintf("writing %d files, %d MiB", u.inodes, blocks*blockSize>>20))
		err := p.mkfs(ctx, u, blocks)
		next := blocks + blocks*growPercent/100 + 256
		if err == nil {
			free, err := freeBlocks(p.Device)
			if err != nil || tight || free*100 <= slackPercent*blocks || fitted(blocks-free) >= blocks {
				return blocks * blockSize, err
			}
			// mkfs leaves out blocks of zeros, of which programs for processors with
			// large pages have many.
			tight, next = true, fitted(blocks-free)
		}
		if attempt == attempts && err != nil || ctx.Err() != nil {
			return 0, fmt.Errorf("pack layer: %w", errors.Join(err, ctx.Err()))
		}
		if err := zero(p.Device, blocks*blockSize); err != nil {
			return 0, err
		}
		blocks = next
	}
}

// fitted is the size for a file system that is known to use so many blocks.
func fitted(used int64) int64 { return used + used/100 + 64 }

// freeBlocks reads out of a file system's description how many of its blocks are
// not in use.
func freeBlocks(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("look at the layer: %w", err)
	}
	defer file.Close()
	super := make([]byte, 1024)
	if _, err := file.ReadAt(super, 1024); err != nil {
		return 0, fmt.Errorf("look at the layer: %w", err)
	}
	// The upper half is zero below 16 TiB.
	return int64(binary.LittleEndian.Uint32(super[12:])), nil
}

// inodesNeeded adds the eleven that ext4 reserves and lost+found.
func (u usage) inodesNeeded() int64 { return u.inodes + 12 }

// total is the number of blocks of the whole file system: data, inode table,
// and for every group of 128 MiB its bitmaps and descriptors with some slack.
func (u usage) total() int64 {
	const inodesPerBlock, blocksPerGroup = blockSize / 256, 32768
	blocks := u.blocks + u.inodesNeeded()/inodesPerBlock + 1
	groups := blocks/blocksPerGroup + 1
	return blocks + groups*(inodesPerBlock+32) + blocks/200 + 64
}

// mkfs runs the sandbox's own mkfs.ext4, whose version therefore is pinned with
// the image. Since 1.47.1 it sorts directories and clamps all times to
// SOURCE_DATE_EPOCH.
func (p Pack) mkfs(ctx context.Context, u usage, blocks int64) error {
	epoch := strconv.FormatInt(p.Epoch.Unix(), 10)
	env := []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
		"SOURCE_DATE_EPOCH=" + epoch, "E2FSPROGS_FAKE_TIME=" + epoch,
	}
	argv := []string{
		"mkfs.ext4", "-q", "-F", "-b", strconv.Itoa(blockSize), "-I", "256", "-m", "0",
		"-N", strconv.FormatInt(u.inodesNeeded(), 10),
		"-O", "^has_journal,^resize_inode",
		"-U", u.uuid("uuid"),
		// The drive is blank, so nothing needs to be zeroed now or ever.
		"-E", "hash_seed=" + u.uuid("hash seed") + ",root_owner=0:0,assume_storage_prezeroed=1,nodiscard",
		"-d", p.Tree, p.Device, strconv.FormatInt(blocks, 10),
	}
	if err := p.Run(ctx, env, argv); err != nil {
		return err
	}
	return syncDevice(p.Device)
}

// blankSize returns the device's size after a look at its start, where a drive
// in use has a signature: a wrong drive must not be overwritten.
func blankSize(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("pack layer: %w", err)
	}
	defer file.Close()
	head := make([]byte, 64<<10)
	if _, err := io.ReadFull(file, head); err != nil {
		return 0, fmt.Errorf("pack layer: read %s: %w", path, err)
	}
	if len(bytes.Trim(head, "\x00")) > 0 {
		return 0, fmt.Errorf("pack layer: drive %s is not blank", path)
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("pack layer: size of %s: %w", path, err)
	}
	return size, nil
}

func syncDevice(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// zero makes the start of the device blank again without allocating it.
func zero(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("blank %s: %w", path, err)
	}
	defer file.Close()
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE // block devices know it as well
	if err := unix.Fallocate(int(file.Fd()), mode, 0, size); err != nil {
		return fmt.Errorf("blank %s: %w", path, err)
	}
	return nil
}
