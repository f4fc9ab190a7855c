//go:build linux

package program

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestLookPath(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for path, mode := range map[string]os.FileMode{
		filepath.Join(one, "tool"): 0o644, filepath.Join(two, "tool"): 0o755, filepath.Join(one, "data"): 0o644,
	} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	path := one + ":/nonesuch:" + two
	if got, err := LookPath("tool", path, "/"); err != nil || got != filepath.Join(two, "tool") {
		t.Errorf("tool: %q, %v", got, err)
	}
	if _, err := LookPath("data", path, "/"); !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrNotFound) {
		t.Errorf("data: %v", err)
	}
	if got, err := LookPath("tool", "", two); err != nil || got != filepath.Join(two, "tool") {
		t.Errorf("empty path: %q, %v", got, err)
	}
	if got, err := LookPath("./tool", path, two); err != nil || got != filepath.Join(two, "tool") {
		t.Errorf("relative: %q, %v", got, err)
	}
	if _, err := LookPath(filepath.Join(two, "tool/x"), path, "/"); !errors.Is(err, ErrNotFound) {
		t.Errorf("below a file: %v", err)
	}
}

func TestSessionOf(t *testing.T) {
	for stat, want := range map[string]int{
		"12 (sh) S 1 12 11 0 -1":            11,
		"12 (a) b) R 9 (x) S 1 12 77 34816": 77,
		"":                                  -1,
		"12 (sh) S 1":                       -1,
		"12 (sh) S 1 2 x":                   -1,
	} {
		if got := sessionOf([]byte(stat)); got != want {
			t.Errorf("%q: got %d, want %d", stat, got, want)
		}
	}
}
