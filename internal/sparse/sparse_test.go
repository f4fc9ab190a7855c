package sparse

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
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
	must(t, Copy(t.Context(), from, to, size))
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

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	must(t, os.WriteFile(from, []byte("data"), 0o644))
	must(t, os.Truncate(from, 1<<20))
	must(t, CopyFile(t.Context(), from, to))
	info, err := os.Stat(to)
	must(t, err)
	text, err := os.ReadFile(to)
	if err != nil || info.Mode().Perm() != 0o600 || len(text) != 1<<20 || string(text[:4]) != "data" {
		t.Errorf("copied %d bytes with mode %v, %v", len(text), info.Mode(), err)
	}
	if err := CopyFile(t.Context(), from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
	for name, make := range map[string]func(string) error{
		"link":   func(path string) error { return os.Symlink(from, path) },
		"fifo":   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		must(t, make(filepath.Join(dir, name)))
		if err := CopyFile(t.Context(), filepath.Join(dir, name), filepath.Join(dir, "copy")); err == nil {
			t.Errorf("a %s was copied", name)
		}
	}
}

func TestCopyFileCanBeEnded(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	must(t, os.WriteFile(from, bytes.Repeat([]byte("x"), 1<<20), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CopyFile(ctx, from, to); !errors.Is(err, context.Canceled) {
		t.Skipf("this file system shares blocks: %v", err)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a part of the copy is left: %v", err)
	}
}
