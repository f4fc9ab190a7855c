//go:build linux

package guest

import (
	"testing"

	"github.com/smolvm/smolvm/internal/wire"
)

func TestMemoryUse(t *testing.T) {
	use, err := memoryUse()
	if err != nil || use.Free <= 0 || use.Free >= use.Total || use.Total < 64<<20 {
		t.Errorf("%+v, %v", use, err)
	}
	if !worthTelling(wire.MemoryUse{}, use) {
		t.Error("the first look is not told")
	}
	for change, want := range map[int64]bool{0: false, memoryStep - 1: false, memoryStep: true, -memoryStep: true} {
		now := use
		now.Free += change
		if got := worthTelling(use, now); got != want {
			t.Errorf("a change of %d bytes is told: %v", change, got)
		}
	}
}
