//go:build linux

package guest

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// How often the guest looks at its memory, and by how many bytes the free part has to
// have changed for the host to be told: a resting guest says nothing.
const (
	memoryPeriod = 5 * time.Second
	memoryStep   = 2 << 20
)

// watchMemory tells the host how much of the memory is free, until ctx ends, for the
// monitor that has a balloon. It does not read the balloon's own statistics: before
// version 1.14 Firecracker drops all of those of Linux 6.12, which has kinds that it
// does not know.
func (a *agent) watchMemory(ctx context.Context) {
	ticker := time.NewTicker(memoryPeriod)
	defer ticker.Stop()
	var told wire.MemoryUse
	for {
		if use, err := memoryUse(); err == nil && worthTelling(told, use) {
			told = use
			a.uplink.remember(wire.Message{Type: wire.Memory, Memory: &use})
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// memoryUse asks the kernel.
func memoryUse() (wire.MemoryUse, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return wire.MemoryUse{}, err
	}
	unit := int64(info.Unit)
	return wire.MemoryUse{Total: int64(info.Totalram) * unit, Free: int64(info.Freeram) * unit}, nil //nolint:gosec // a computer has less than 2^63 bytes
}

// worthTelling compares a use with the one that the host knows.
func worthTelling(told, use wire.MemoryUse) bool {
	moved := use.Free - told.Free
	return told.Total != use.Total || moved >= memoryStep || moved <= -memoryStep
}
