package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Where links are impossible the view shows copies, notices when one of them was
// altered, and makes it anew.
func TestViewOfCopies(t *testing.T) {
	s := open(t)
	unlinkable(s)
	key := add(t, s, "base.ext4", "bytes")
	keepArchive(t, s, "base.ext4")
	v := view("base.ext4", key)
	must(t, s.Show(t.Context(), v))
	file := filepath.Join(s.Folder(v), "base.ext4")
	check := func(when string) {
		t.Helper()
		data, err := os.ReadFile(file)
		archive, archiveErr := os.ReadFile(file + archiveSuffix)
		if err := errors.Join(err, archiveErr); err != nil || string(data) != "bytes" || string(archive) != "0123456789" || !s.isShown(v) {
			t.Errorf("%s: %q, %q, %v, shown %v", when, data, archive, err, s.isShown(v))
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s: %v, %v", when, info.Mode(), err)
		}
	}
	check("copied")
	if got := s.look(key).State; got != Ready {
		t.Errorf("the object is %s", got)
	}
	must(t, os.Chmod(file, 0o644))
	must(t, os.WriteFile(file, []byte("evil!"), 0o644))
	must(t, s.Show(t.Context(), v))
	check("altered")
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if p := prune(t, s, all()); p.Objects != 1 || len(p.Images) != 1 {
		t.Errorf("%+v", p)
	}
}

func TestCopyCanBeEnded(t *testing.T) {
	s := open(t)
	unlinkable(s)
	key := add(t, s, "base", strings.Repeat("x", 100_000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Show(ctx, view("base", key)); !errors.Is(err, context.Canceled) {
		t.Skipf("this file system shares blocks: %v", err)
	}
	if left, err := os.ReadDir(s.tmp); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
