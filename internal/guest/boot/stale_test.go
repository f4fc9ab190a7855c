//go:build linux

package boot

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRemoveStale(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"upper/usr/bin", "work/work", "upper-1/etc", "work-1/index", "upper-2/etc", "work-2/work", "home/a", "upperclass"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"upper/usr/bin/tool", "upper-2/etc/kept", "home/a/upper"} {
		if err := os.WriteFile(filepath.Join(dir, path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../home", filepath.Join(dir, "upper/link")); err != nil {
		t.Fatal(err)
	}
	scratch, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	ended, end := context.WithCancel(t.Context())
	end()
	root := &Root{scratch: scratch, generation: 2}
	if err := root.RemoveStale(ended); err == nil {
		t.Error("it went on although it was to end")
	}
	if err := root.RemoveStale(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if want := []string{"home", "upper-2", "upperclass", "work-2"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	for _, path := range []string{"upper-2/etc/kept", "home/a/upper"} {
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
	}
	none := &Root{scratch: scratch}
	if err := none.RemoveStale(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "upper-2")); err != nil {
		t.Errorf("a sandbox that was never updated was swept: %v", err)
	}
}
