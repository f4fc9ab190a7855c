//go:build linux

package guest

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// A disk counts as full with less than fullBelow left, until roomAbove are. Nothing
// tells of a file system that fills up, so it is asked, which is one system call.
const (
	diskPeriod = 15 * time.Second
	fullBelow  = 4 << 20
	roomAbove  = 32 << 20
)

// watchDisk tells the host when the sandbox's disk is full, and when it has room
// again, until ctx ends.
func (a *agent) watchDisk(ctx context.Context) {
	ticker := time.NewTicker(diskPeriod)
	defer ticker.Stop()
	full := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var disk unix.Statfs_t
		if err := unix.Statfs("/", &disk); err != nil {
			continue // it is not the disk's fullness, then
		}
		line := fullness(disk, full)
		if (line != "") == full {
			continue
		}
		full = line != ""
		if full {
			a.console.printf("%s", line)
		} else {
			a.keepReserve()
		}
		a.uplink.say(wire.Message{Type: wire.DiskFull, Text: line})
	}
}

// keepReserve holds room for the next start of a sandbox.
func (a *agent) keepReserve() {
	if a.options.Mode != wire.ModeRun {
		return
	}
	if err := a.root.KeepReserve(); err != nil {
		a.console.printf("%v", err)
	}
}

// fullness says in what way a disk is full, empty where it is not. One that was full
// has to have some more room.
func fullness(disk unix.Statfs_t, was bool) string {
	least := uint64(fullBelow)
	if was {
		least = roomAbove
	}
	size := uint64(disk.Bsize) //nolint:gosec // a block has no negative size
	switch {
	case disk.Bavail*size < least:
		return fmt.Sprintf("the sandbox's disk is full: %d of %d MiB are left", disk.Bavail*size>>20, disk.Blocks*size>>20)
	case disk.Files > 0 && disk.Ffree == 0:
		return fmt.Sprintf("the sandbox's disk is full: all of its %d inodes are used", disk.Files)
	}
	return ""
}
