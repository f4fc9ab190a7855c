package firecracker

import (
	"testing"

	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker/apitest"
)

// TestBalloon: it grows while a guest rests, stays while it works, and shrinks
// before it runs short.
func TestBalloon(t *testing.T) {
	for name, c := range map[string]struct {
		before, now memoryUse
		want        int64
	}{
		"rests":            {memoryUse{2000, 1800, 0}, memoryUse{2000, 1795, 0}, 1763},
		"rests, squeezed":  {memoryUse{2000, 40, 1700}, memoryUse{2000, 36, 1700}, 1700},
		"frees":            {memoryUse{2000, 100, 1700}, memoryUse{2000, 120, 1700}, 1788},
		"works":            {memoryUse{2000, 1800, 0}, memoryUse{2000, 1500, 0}, 0},
		"ends its work":    {memoryUse{2000, 100, 0}, memoryUse{2000, 1500, 0}, 0},
		"runs short":       {memoryUse{2000, 100, 1700}, memoryUse{2000, 5, 1700}, 1444},
		"short, little in": {memoryUse{2000, 100, 100}, memoryUse{2000, 5, 100}, 0},
		"nearly all free":  {memoryUse{2048, 2040, 0}, memoryUse{2048, 2040, 0}, 1952},
	} {
		if got := target(c.before, c.now, 2048); got != c.want {
			t.Errorf("%s: %d MiB, want %d", name, got, c.want)
		}
	}
	// It settles, whatever the guest's size, with little left free.
	for _, memory := range []int64{128, 512, 2048, 65536} {
		u := memoryUse{total: memory - 20, free: memory - 80}
		before := u
		for range 5 {
			size := target(before, u, memory)
			before = u
			u.free, u.balloon = u.free-(size-u.balloon), size // the balloon's pages are no use of the guest's
		}
		if size := target(before, u, memory); size != u.balloon || u.free < lowFree || memory > 200 && u.free > leftFree+balloonSlack {
			t.Errorf("a guest of %d MiB does not settle: %d after %d, %d free", memory, size, u.balloon, u.free)
		}
	}
}

// TestMemory: what is used is what the guest says, without what the balloon holds, and
// nothing of what it cannot have. Firecracker's own numbers are not taken.
func TestMemory(t *testing.T) {
	m := &machine{api: serve(t, &apitest.Server{BalloonMiB: 40}), spec: vmm.Spec{MemoryMiB: 256}}
	if got, err := m.Memory(t.Context()); err != nil || got != (vmm.Memory{}) {
		t.Errorf("a guest that has said nothing: %+v, %v", got, err)
	}
	want := vmm.Memory{Used: 116 << 20, Returned: 40 << 20}
	for _, said := range [][2]int64{{240 << 20, 100 << 20}, {240 << 20, -1}, {1 << 20, 2 << 20}, {257 << 20, 0}} {
		m.Inform(said[0], said[1])
		if got, err := m.Memory(t.Context()); err != nil || got != want {
			t.Errorf("after it said %d: %+v, %v", said, got, err)
		}
	}
}
