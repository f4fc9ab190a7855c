package firecracker

import "testing"

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
