package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whatever happens to a stored file, it does not count as ready any more.
func TestAlteredObjects(t *testing.T) {
	tests := map[string]func(path string) error{
		"same size": func(path string) error { return rewrite(path, "BYTES") },
		"same size and time set back": func(path string) error {
			info, err := os.Stat(path)
			return errors.Join(err, rewrite(path, "BYTES"), os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"longer":  func(path string) error { return rewrite(path, "bytes and more") },
		"cut":     func(path string) error { return errors.Join(os.Chmod(path, 0o644), os.Truncate(path, 4)) },
		"emptied": func(path string) error { return errors.Join(os.Chmod(path, 0o644), os.Truncate(path, 0)) },
		"replaced": func(path string) error {
			return errors.Join(os.WriteFile(path+"-new", []byte("bytes"), 0o444), os.Rename(path+"-new", path))
		},
		"a link": func(path string) error {
			return errors.Join(os.Rename(path, path+"-old"), os.Symlink(path+"-old", path))
		},
		"a hard link more": func(path string) error { return os.Link(path, path+"-more") },
		"gone":             os.Remove,
		"record gone":      func(path string) error { return os.Remove(sibling(path, recordFile)) },
		"record empty":     func(path string) error { return os.Truncate(sibling(path, recordFile), 0) },
		"record of another": func(path string) error {
			return rewrite(sibling(path, recordFile), `{"schema":1,"origin":{"name":"x"},"identity":{"size":5}}`)
		},
		"record a link": func(path string) error {
			return errors.Join(os.Rename(sibling(path, recordFile), path+"-r"), os.Symlink(path+"-r", sibling(path, recordFile)))
		},
		"folder a link": func(path string) error {
			dir := filepath.Dir(path)
			return errors.Join(os.Rename(dir, dir+"-old"), os.Symlink(dir+"-old", dir))
		},
	}
	for name, alter := range tests {
		t.Run(name, func(t *testing.T) {
			s := openInMemory(t)
			key := add(t, s, "base", "bytes")
			must(t, s.Show(t.Context(), view("base", key)))
			must(t, alter(s.look(key).Path))
			if got := state(t, s, key); got == Ready {
				t.Error("it counts as ready")
			}
			if err := s.Show(t.Context(), View{Release: "2", Preset: "p", Arch: "a", VMM: "v", Files: view("base", key).Files}); err == nil {
				t.Error("it was shown")
			}
			repair(t, s, "base", "bytes")
			must(t, s.Show(t.Context(), view("base", key)))
			if data, err := os.ReadFile(filepath.Join(s.Folder(view("base", key)), "base")); err != nil || string(data) != "bytes" {
				t.Errorf("after the repair: %q, %v", data, err)
			}
		})
	}
}

func rewrite(path, content string) error {
	return errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte(content), 0o644))
}

func sibling(path, name string) string { return filepath.Join(filepath.Dir(path), name) }

// A disk that forgets changes no times: whoever read wrong bytes says so.
func TestDoubt(t *testing.T) {
	s := open(t)
	key := add(t, s, "base", "bytes")
	claim := seize(t, s, key)
	must(t, claim.Doubt(t.Context()))
	object := s.look(key)
	if object.State != Doubtful || object.Origin.Name != "base" {
		t.Errorf("%+v", object)
	}
	must(t, claim.Release())
	settleAs(t, s, "base", "bytes")
	if got := state(t, s, key); got != Ready {
		t.Errorf("settled: %s", got)
	}
}

// A change right after a look is seen, though the kernel's clock has not moved.
func TestChangeWithinATick(t *testing.T) {
	s := openInMemory(t)
	for range 20 {
		repair(t, s, "base", "bytes")
		path := s.look(keyOf("index of base")).Path
		info, err := os.Stat(path)
		must(t, errors.Join(err, rewrite(path, "BYTES"), os.Chmod(path, 0o444), os.Chtimes(path, info.ModTime(), info.ModTime())))
		if got := state(t, s, keyOf("index of base")); got == Ready {
			t.Fatal("altered, and yet ready")
		}
	}
}

// The cache works wherever it is, and after it was moved.
func TestHomes(t *testing.T) {
	for name, tail := range map[string]string{
		"unicode": "Größe 日本語 🙂", "quotes": `it's "so"`, "newline": "a\nb", "glob": "[a-z]*?",
		"long": strings.Repeat("d23456789/", 90) + "end",
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			s, err := Open(filepath.Join(parent, tail))
			must(t, err)
			v := view("base", add(t, s, "base", "bytes"))
			must(t, s.Show(t.Context(), v))
			must(t, os.Rename(filepath.Join(parent, strings.Split(tail, "/")[0]), filepath.Join(parent, "moved")))
			moved, err := Open(filepath.Join(parent, "moved", strings.Join(strings.Split(tail, "/")[1:], "/")))
			must(t, err)
			if got := state(t, moved, v.Files[0].Key); got != Ready || !moved.isShown(v) {
				t.Errorf("moved: %s, shown %v", got, moved.isShown(v))
			}
			if p := prune(t, moved, all()); p.Objects != 1 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// A lock file that was removed while it was held locks nobody in.
func TestReplacedLockFile(t *testing.T) {
	s := open(t)
	key := keyOf("x")
	first := seize(t, s, key)
	must(t, os.Remove(filepath.Join(s.locks, key)))
	second := seize(t, s, key)
	if lock, err := s.try(key); err != nil || lock != nil {
		t.Errorf("a third one has it too: %v", err)
	}
	must(t, errors.Join(first.Release(), second.Release()))
}

// What a launch pays must not depend on the size of the image, and be far below
// 2 ms for all of its files.
func TestLookupIsQuick(t *testing.T) {
	s := openInMemory(t)
	small, large := add(t, s, "small", "x"), addSparse(t, s, "large", 64<<30)
	cost := func(key string) time.Duration {
		best := time.Hour
		for range 200 {
			begun := time.Now()
			if got := state(t, s, key); got != Ready {
				t.Fatalf("it is %s", got)
			}
			best = min(best, time.Since(begun))
		}
		return best
	}
	if a, b := cost(small), cost(large); a > 400*time.Microsecond || b > 400*time.Microsecond || b > 5*a {
		t.Errorf("a look at a small file takes %v, at one of 64 GiB %v", a, b)
	}
}

func addSparse(t testing.TB, s *Store, name string, size int64) string {
	t.Helper()
	claim := seize(t, s, keyOf("index of "+name))
	file, err := claim.Partial()
	must(t, err)
	must(t, file.Truncate(size))
	_, err = claim.Commit(t.Context(), origin(name, int(size)), []byte("index of "+name))
	must(t, errors.Join(err, claim.Release()))
	return keyOf("index of " + name)
}
