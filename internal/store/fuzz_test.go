package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzRecord(f *testing.F) {
	s := openInMemory(f)
	key := add(f, s, "base", "bytes")
	path := filepath.Join(s.folder(key), recordFile)
	right, err := os.ReadFile(path)
	must(f, err)
	f.Add(right)
	f.Add([]byte(`{"schema":1}`))
	f.Add([]byte(`{"schema":2}`))
	f.Add(append(right, right...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		must(t, os.WriteFile(path, raw, 0o644))
		object := s.look(key)
		if object.State == Ready && object.Origin.Content.Size != 5 {
			t.Errorf("ready with %+v", object.Origin)
		}
		if object.State == Absent {
			t.Error("an object that is there counts as absent")
		}
	})
}

// Whatever the sidecar says, a view is right only with the one that names its
// archive, and is made right again.
func FuzzSidecar(f *testing.F) {
	s := openInMemory(f)
	v := view("base", add(f, s, "base", "bytes"))
	must(f, s.Show(f.Context(), v))
	right := keyOf("archive base") + "\n"
	f.Add([]byte(right))
	f.Add([]byte(""))
	f.Add([]byte(strings.ToUpper(right)))
	f.Add([]byte(right + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(s.Folder(v), "base"+sidecarSuffix)
		must(t, os.Remove(path))
		must(t, os.WriteFile(path, raw, 0o444))
		if s.isShown(v) != (string(raw) == right) {
			t.Errorf("the sidecar %q is accepted: %v", raw, s.isShown(v))
		}
		must(t, s.Show(t.Context(), v))
		if got, err := os.ReadFile(path); err != nil || string(got) != right {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// Whatever a lease's file says, nothing goes while its owner lives unless the file
// is a lease of other objects.
func FuzzLease(f *testing.F) {
	s := openInMemory(f)
	key := add(f, s, "base", "bytes")
	for _, seed := range []string{
		`{"schema":1,"label":"x","keys":["` + key + `"]}`, `{"schema":1,"label":"x","keys":[]}`,
		`{"schema":2}`, `{`, ``, `{"schema":1,"label":"","keys":null}`, `{"schema":1,"label":"x","keys":["../x"]}`,
	} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(s.leases, leasePrefix+"0")
	f.Fuzz(func(t *testing.T, raw []byte) {
		must(t, os.WriteFile(path, raw, 0o644))
		file, err := os.Open(path)
		must(t, err)
		defer file.Close()
		must(t, unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		o := all()
		o.DryRun = true
		p := prune(t, s, o)
		lease, err := readLease(path)
		if err != nil && p.Objects > 0 {
			t.Errorf("%q cannot be read, and yet %+v", raw, p)
		}
		for _, held := range lease.Keys {
			if err == nil && held == key && p.Objects > 0 {
				t.Errorf("%q holds it, and yet %+v", raw, p)
			}
		}
	})
}

// Whatever a view says, it stays inside its folder.
func FuzzView(f *testing.F) {
	s := openInMemory(f)
	v := view("base", add(f, s, "base", "bytes"))
	must(f, s.Show(f.Context(), v))
	path := filepath.Join(s.Folder(v), viewFile)
	right, err := os.ReadFile(path)
	must(f, err)
	f.Add(right)
	f.Add([]byte(`{"schema":2}`))
	f.Add([]byte(strings.ReplaceAll(string(right), `"base"`, `"../../base"`)))
	f.Add([]byte(strings.ReplaceAll(string(right), `"1.0"`, `".."`)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		must(t, os.Remove(path))
		must(t, os.WriteFile(path, raw, 0o444))
		for _, found := range s.views() {
			if dir := s.Folder(found); filepath.Dir(filepath.Dir(dir)) != s.images {
				t.Errorf("%q leads to %s", raw, dir)
			}
			for _, file := range found.Files {
				if filepath.Base(file.Name) != file.Name || strings.HasPrefix(file.Name, ".") {
					t.Errorf("%q names the file %q", raw, file.Name)
				}
			}
		}
		if _, err := s.Prune(t.Context(), PruneOptions{All: true, Keep: -1, DryRun: true}); err != nil {
			t.Error(err)
		}
	})
}
