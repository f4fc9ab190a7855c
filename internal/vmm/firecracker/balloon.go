package firecracker

import (
	"context"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
)

// The balloon takes memory from a guest that does not use it, so that the host has
// it back, and gives it back before the guest runs short. A guest that needs memory
// at once takes it itself (deflate-on-OOM).
const (
	// balloonPause is how often the statistics are looked at.
	balloonPause = 10 * time.Second
	// leftFree is what a resting guest keeps free in MiB: what it then costs the
	// host is within twice that of what it uses.
	leftFree = 32
	// lowFree is the free memory in MiB below which a guest gets some back.
	lowFree = 16
	// balloonStep is how much it gets back at a time, in MiB: page by page it would
	// crawl.
	balloonStep = 256
	// balloonSlack is the change in MiB that is not worth a message.
	balloonSlack = 8
	// restless is how much the use of memory changes in MiB between two looks where a
	// guest is at work. Nothing is taken from such a one.
	restless = 32
)

// memoryUse is what a machine uses, in MiB. With deflate-on-OOM the guest counts the
// balloon's pages as its own.
type memoryUse struct {
	total, free, balloon int64
}

// used is what the guest's programs, its kernel and its caches use.
func (u memoryUse) used() int64 { return u.total - u.free - u.balloon }

// target is how large the balloon should be, after two looks; u.balloon where
// nothing is to change. memory is the machine's.
func target(before, u memoryUse, memory int64) int64 {
	moved := u.used() - before.used()
	size := u.balloon
	switch {
	case u.free < lowFree:
		size = max(0, u.balloon-balloonStep)
	case moved > restless || moved < -restless:
		return u.balloon // it works
	case u.free > leftFree+balloonSlack:
		size = u.balloon + u.free - leftFree
	}
	// A guest cannot go below what its kernel needs to give pages back.
	return min(size, max(0, memory-leastMemory))
}

// leastMemory is what is left to a guest in any case, in MiB.
const leastMemory = 96

// breathe keeps the balloon as large as the guest's rest allows, until ctx ends.
func (m *machine) breathe(ctx context.Context) {
	tick := time.NewTicker(balloonPause)
	defer tick.Stop()
	var before memoryUse
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		u, err := m.memoryUse(ctx)
		if err != nil || u.total == 0 {
			continue // nothing is said by the guest (yet), it is paused, or ending
		}
		if size := target(before, u, m.spec.MemoryMiB); before.total != 0 && size != u.balloon {
			_ = m.client().patch(ctx, "/balloon", "the balloon", balloonTarget{size}) // the next look tries again
		}
		before = u
	}
}

// Inform takes what the guest's agent says of its memory. Firecracker's own statistics
// are not to be had everywhere: before version 1.14 it drops those of Linux 6.12, all of
// them, for the kinds that it does not know. All of the machine's memory counts: what a
// kernel does not hand out it uses itself, 64 bytes for each page of 4 KiB alone.
func (m *machine) Inform(total, free int64) {
	if free < 0 || free > total || total > m.spec.MemoryMiB<<20 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = memoryUse{total: m.spec.MemoryMiB, free: free >> 20}
}

// memoryUse is what the guest said last, with the size of the balloon now; all 0 where
// it has said nothing.
func (m *machine) memoryUse(ctx context.Context) (memoryUse, error) {
	var s balloonStatistics
	if err := m.client().get(ctx, "/balloon/statistics", "the balloon's statistics", &s); err != nil {
		return memoryUse{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.told
	if u.total > 0 {
		u.balloon = s.ActualMiB
	}
	return u, nil
}

// Memory says what the guest uses of its memory, and what the balloon holds for the
// host, in bytes.
func (m *machine) Memory(ctx context.Context) (vmm.Memory, error) {
	u, err := m.memoryUse(ctx)
	return vmm.Memory{Used: max(0, u.used()) << 20, Returned: u.balloon << 20}, err
}
