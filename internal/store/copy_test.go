package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// A copy has the holes of the original, at its end too.
func TestSparseCopy(t *testing.T) {
	const data, size = 1 << 20, 64 << 20
	dir := t.TempDir()
	from, err := os.Create(filepath.Join(dir, "from"))
	must(t, err)
	defer from.Close()
	must(t, from.Truncate(size))
	for _, at := range []int64{0, size / 2} {
		_, err = from.WriteAt(bytes.Repeat([]byte("x"), data), at)
		must(t, err)
	}
	to, err := os.Create(filepath.Join(dir, "to"))
	must(t, err)
	defer to.Close()
	must(t, copySparse(t.Context(), from, to, size))
	a, errA := os.ReadFile(from.Name())
	b, errB := os.ReadFile(to.Name())
	if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
		t.Fatalf("the copy differs: %v", err)
	}
	var before, after unix.Stat_t
	must(t, errors.Join(unix.Stat(from.Name(), &before), unix.Stat(to.Name(), &after)))
	if after.Blocks > before.Blocks+64 {
		t.Errorf("%d blocks, the original has %d", after.Blocks, before.Blocks)
	}
}
