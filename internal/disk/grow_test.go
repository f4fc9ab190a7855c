package disk

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
)

func TestGrowScratch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "scratch")
	if err := os.WriteFile(path, []byte("what it holds"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1 << 30, 1 << 30} {
		if err := GrowScratch(path, size); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 1<<30 || info.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 {
		t.Errorf("got %+v, %v", info, err)
	}
	for size, code := range map[int64]fault.Code{64 << 20: fault.Usage, MaxScratch + 4096: fault.Usage, 1<<30 + 1: fault.Usage} {
		if err := GrowScratch(path, size); fault.CodeOf(err) != code {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if info, _ = os.Stat(path); info.Size() != 1<<30 {
		t.Errorf("a refused size left %d bytes", info.Size())
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := GrowScratch(link, 2<<30); fault.CodeOf(err) != fault.Storage {
		t.Errorf("a link was followed: %v", err)
	}
}
