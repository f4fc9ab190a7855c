package treecopy

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestChangesWhileRead: somebody changes a tree in the middle of a copy of it. What
// arrives was there at some time, and nothing of what is beside the tree.
func TestChangesWhileRead(t *testing.T) {
	const whole = 4*chunk + 5
	old := "old" + strings.Repeat("o", whole-3)
	for _, c := range []struct {
		name   string
		change func(top string) error // of the tree in which a/big is being read
		want   map[string]int         // sizes of what arrives
		said   string
	}{
		{
			"shorter", func(top string) error { return os.Truncate(filepath.Join(top, "a/big"), chunk+7) },
			map[string]int{"a/big": chunk + 7, "a/next": 3},
			"a/big: it became shorter while it was read",
		},
		{
			"emptied", func(top string) error { return os.Truncate(filepath.Join(top, "a/big"), 0) },
			map[string]int{"a/big": chunk, "a/next": 3},
			"a/big: it became shorter while it was read",
		},
		{
			"longer", func(top string) error { return appendTo(filepath.Join(top, "a/big"), "more") },
			map[string]int{"a/big": whole, "a/next": 3},
			"",
		},
		{"replaced", func(top string) error {
			return errors.Join(os.WriteFile(filepath.Join(top, "new"), []byte("new"), 0o600), os.Rename(filepath.Join(top, "new"), filepath.Join(top, "a/big")))
		}, map[string]int{"a/big": whole, "a/next": 3}, ""},
		{
			"removed", func(top string) error { return os.Remove(filepath.Join(top, "a/big")) },
			map[string]int{"a/big": whole, "a/next": 3},
			"",
		},
		{
			"next removed", func(top string) error { return os.Remove(filepath.Join(top, "a/next")) },
			map[string]int{"a/big": whole},
			"",
		},
		{"next a pipe", func(top string) error {
			return errors.Join(os.Remove(filepath.Join(top, "a/next")), syscall.Mkfifo(filepath.Join(top, "a/next"), 0o600))
		}, map[string]int{"a/big": whole}, "a/next: it is no file, folder or link"},
		{"folder led outside", func(top string) error {
			return errors.Join(os.Rename(filepath.Join(top, "a"), filepath.Join(top, "b")), os.Symlink("../beside", filepath.Join(top, "a")))
		}, map[string]int{"a/big": whole}, "a/next: "},
	} {
		outer, to := t.TempDir(), t.TempDir()
		top := filepath.Join(outer, "top")
		write1(t, filepath.Join(top, "a/big"), old, 0o600)
		write1(t, filepath.Join(top, "a/next"), "old", 0o600)
		write1(t, filepath.Join(outer, "beside/next"), "secret", 0o600)
		sum, err := carryWhile(t, top, to, func() error { return c.change(top) })
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if said := strings.Join(sum.Skipped, "\n"); c.said == "" && said != "" || !strings.Contains(said, c.said) {
			t.Errorf("%s: it says %q, want %q", c.name, said, c.said)
		}
		if got := arrived(t, filepath.Join(to, "copy"), old); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v arrived, want %v", c.name, got, c.want)
		}
	}
}

// carryWhile copies through memory, and has something change after the first piece.
func carryWhile(t *testing.T, source, dest string, change func() error) (Summary, error) {
	t.Helper()
	var wire bytes.Buffer
	changed := false
	_, err := Send(&wire, source, func(int64, int64) {
		if !changed {
			changed = true
			if err := change(); err != nil {
				t.Error(err)
			}
		}
	})
	sum, received := Receive(&wire, Place{Dir: dest, Name: "copy"}, Options{})
	return sum, errors.Join(err, received)
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// arrived are the files below a folder with their sizes. Their content is what begins
// the old one.
func arrived(t *testing.T, top, old string) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if !strings.HasPrefix(old, string(text)) {
			t.Errorf("%s arrived as %.40q", path, text)
		}
		below, _ := filepath.Rel(top, path)
		found[below] = len(text)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// TestSparseBombs: a file of a guest that says to be huge takes what was sent of it,
// or is refused and leaves nothing.
func TestSparseBombs(t *testing.T) {
	for _, size := range []int64{1 << 40, 1 << 50, 1<<62 - 1} {
		parts := []any{entry{Path: ".", Kind: folder, Mode: 0o755}}
		for _, path := range []string{"one", "two", "three"} {
			parts = append(parts, entry{Path: name(path), Kind: regular, Size: size})
			for i := range int64(32) {
				parts = append(parts, i*(size/32)) // a byte each
			}
			parts = append(parts, ending{size})
		}
		to := t.TempDir()
		_, err := Receive(stream(parts...), Place{Dir: to, Name: "copy"}, Options{})
		var blocks int64
		walked := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil {
				blocks += info.Sys().(*syscall.Stat_t).Blocks
			}
			if strings.HasPrefix(d.Name(), ".smolvm-copy") {
				t.Errorf("%d bytes: half a file stays as %s", size, path)
			}
			return err
		})
		if walked != nil || blocks*512 > 16<<20 {
			t.Errorf("%d bytes take %d KiB here, %v", size, blocks/2, walked)
		}
		if err != nil && !errors.Is(err, syscall.EFBIG) || err != nil && size == 1<<40 {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
