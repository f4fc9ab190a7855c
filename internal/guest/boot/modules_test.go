//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseModuleList(t *testing.T) {
	got, err := ParseModuleList(strings.NewReader("# in the order of need\nvirtio_mmio.ko\n\n kernel/fs/overlay.ko.xz \r\nvfat.ko.zst\nlast.ko.gz"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"virtio_mmio.ko", "kernel/fs/overlay.ko.xz", "vfat.ko.zst", "last.ko.gz"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseModuleListRefuses(t *testing.T) {
	for name, list := range map[string]string{
		"escape":    "../evil.ko",
		"absolute":  "/etc/evil.ko",
		"no module": "order",
		"nul":       "a\x00.ko",
		"too many":  strings.Repeat("a.ko\n", maxModules+1),
		"too long":  strings.Repeat("#", maxModuleList+1),
	} {
		if got, err := ParseModuleList(strings.NewReader(list)); err == nil {
			t.Errorf("%s: accepted as %d names", name, len(got))
		}
	}
}

func FuzzParseModuleList(f *testing.F) {
	f.Add("virtio_mmio.ko\n# x\noverlay.ko.xz\n")
	f.Add("../a.ko\n")
	f.Fuzz(func(t *testing.T, list string) {
		names, err := ParseModuleList(strings.NewReader(list))
		if err != nil {
			return
		}
		if len(names) > maxModules {
			t.Errorf("%d names", len(names))
		}
		for _, name := range names {
			if !filepath.IsLocal(name) {
				t.Errorf("name %q leads out", name)
			}
		}
	})
}

func TestKernelWithoutModules(t *testing.T) {
	m, err := OpenModules(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	m.Load("order")
	if m.Err() != nil {
		t.Error(m.Err())
	}
	if err := m.Retry(t.Context(), func() error { return unix.ENODEV }); !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v, want ENODEV", err)
	}
}

// Garbage in place of a module must name the module, and those who wait for
// what it would have brought must not wait for ever.
func TestFailedLoadIsTheReason(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"order": "bad.ko\n", "bad.ko": "not a module"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := OpenModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() { m.Load("order") })
	err = m.Retry(t.Context(), func() error { return fmt.Errorf("mount: %w", unix.ENODEV) })
	group.Wait()
	if err == nil || !strings.Contains(err.Error(), "bad.ko") || !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v, want ENODEV because of bad.ko", err)
	}
	if err := m.Retry(t.Context(), func() error { return nil }); err != nil {
		t.Errorf("what needs no module failed: %v", err)
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	m, err := OpenModules(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	reason := errors.New("too long")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	if err := m.Retry(ctx, func() error { return unix.ENODEV }); !errors.Is(err, reason) {
		t.Errorf("got %v, want %v", err, reason)
	}
}
