package trust

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const address = "https://example.org/images/manifest.json"

func remember(t *testing.T, m *Memory, serial int64) Document {
	t.Helper()
	doc := Document{Address: address, Raw: []byte{byte(serial)}, Signatures: map[string][]byte{"K": {1}}}
	if err := m.Remember(doc, serial); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSerialOnlyRises(t *testing.T) {
	m := NewMemory(filepath.Join(t.TempDir(), "trust"), time.Now)
	if serial, err := m.Highest(address); err != nil || serial != 0 {
		t.Errorf("first use: %d, %v", serial, err)
	}
	remember(t, m, 5)
	want := remember(t, m, 6)
	remember(t, m, 4) // a slower process that saw an older one
	seen, err := m.Seen(address)
	if err != nil || seen.Serial != 6 || len(seen.Damage) > 0 {
		t.Errorf("%+v, %v", seen, err)
	}
	if d := cmp.Diff(&want, seen.Last); d != "" {
		t.Errorf("the older manifest is the one remembered: %s", d)
	}
	if serial, err := m.Highest("https://elsewhere.example/manifest.json"); err != nil || serial != 0 {
		t.Errorf("another catalogue: %d, %v", serial, err)
	}
}

// Whatever happens to the folder, the serial is at least what is left to be known,
// and somebody is told.
func TestDamage(t *testing.T) {
	file := func(name, content string) func(t *testing.T, folder string) {
		return func(t *testing.T, folder string) {
			must(t, os.RemoveAll(filepath.Join(folder, name)))
			must(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644))
		}
	}
	gone := func(names ...string) func(t *testing.T, folder string) {
		return func(t *testing.T, folder string) {
			for _, name := range names {
				must(t, os.RemoveAll(filepath.Join(folder, name)))
			}
		}
	}
	tests := map[string]struct {
		do     func(t *testing.T, folder string)
		serial int64
		last   bool
		keys   int
		says   string // "": no damage
	}{
		"whole":           {gone(), 5, true, 2, ""},
		"folder gone":     {gone("../" + filepath.Base(NewMemory("", nil).Folder(address))), 0, false, 0, ""},
		"mark gone":       {gone("serial-5"), 5, true, 2, "the mark of the newest serial seen is lost"},
		"mark lowered":    {func(t *testing.T, f string) { gone("serial-5")(t, f); file("serial-3", "")(t, f) }, 5, true, 2, "the mark of the newest"},
		"mark not empty":  {file("serial-5", "4"), 5, true, 2, ""},
		"mark raised":     {file("serial-9", ""), 9, true, 2, ""},
		"mark no number":  {file("serial-x", ""), 5, true, 2, `"serial-x" is no serial; SmolVM writes no such file: find out who did, and remove it`},
		"copy gone":       {gone("last-5.json"), 5, false, 2, ""},
		"copy empty":      {file("last-5.json", ""), 5, false, 2, "cannot be read"},
		"copy cut":        {file("last-5.json", `{"address":`), 5, false, 2, "cannot be read"},
		"copy another's":  {file("last-5.json", `{"address":"https://elsewhere/"}`), 5, false, 2, "it is that of"},
		"copy huge":       {file("last-5.json", strings.Repeat(" ", maxLast+1)), 5, false, 2, "more than"},
		"mark, copy gone": {gone("serial-5", "last-5.json"), 0, false, 2, "the newest serial seen is lost"},
		"emptied":         {gone("serial-5", "last-5.json", "keys-1.json", "keys-2.json"), 0, false, 0, "the newest serial seen is lost"},
		"list gone":       {gone("keys-2.json"), 5, true, 1, "key list 2 is lost"},
		"lists gone":      {gone("keys-1.json", "keys-2.json"), 5, true, 0, "key list 1 is lost"},
		"list empty":      {file("keys-1.json", ""), 5, true, 1, "key list 1 cannot be read"},
		"list another's":  {file("keys-1.json", `{"version":7}`), 5, true, 1, "it holds key list 7"},
		"a FIFO as copy":  {fifo("last-5.json"), 5, false, 2, "not a regular file"},
		"a FIFO as list":  {fifo("keys-2.json"), 5, true, 1, "not a regular file"},
		"a link as copy":  {link("last-5.json"), 5, false, 2, "cannot be read"},
		"a folder as mark": {func(t *testing.T, f string) {
			gone("serial-5")(t, f)
			must(t, os.Mkdir(filepath.Join(f, "serial-5"), 0o755))
		}, 5, true, 2, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := NewMemory(t.TempDir(), time.Now)
			doc := Document{Address: address, Raw: []byte{5}, Keys: []SignedFile{{Version: 1, Raw: []byte("1")}, {Version: 2, Raw: []byte("2")}}}
			must(t, m.Remember(doc, 5))
			test.do(t, m.Folder(address))
			seen, err := m.Seen(address)
			if err != nil || seen.Serial != test.serial || (seen.Last != nil) != test.last || len(seen.Keys) != test.keys {
				t.Errorf("%+v, %v", seen, err)
			}
			told := strings.Join(seen.Damage, "; ")
			if (told == "") != (test.says == "") || !strings.Contains(told, test.says) || told != "" && !strings.Contains(told, m.Folder(address)) {
				t.Errorf("damage %q, want %q", told, test.says)
			}
			if strings.HasPrefix(name, "a folder") {
				return
			}
			doc.Raw = []byte{9}
			must(t, m.Remember(doc, max(test.serial, 5)+1))
			healed, err := m.Seen(address)
			if err != nil || healed.Last == nil || len(healed.Keys) != 2 || len(healed.Damage) > 0 && name != "mark no number" {
				t.Errorf("after the next manifest: %+v, %v", healed, err)
			}
		})
	}
}

func fifo(name string) func(t *testing.T, folder string) {
	return func(t *testing.T, folder string) {
		must(t, os.Remove(filepath.Join(folder, name)))
		must(t, syscall.Mkfifo(filepath.Join(folder, name), 0o644))
	}
}

// link moves a file away and leaves a link to it.
func link(name string) func(t *testing.T, folder string) {
	return func(t *testing.T, folder string) {
		elsewhere := filepath.Join(t.TempDir(), "elsewhere")
		must(t, os.Rename(filepath.Join(folder, name), elsewhere))
		must(t, os.Symlink(elsewhere, filepath.Join(folder, name)))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A folder that cannot be written is an error, and so is one that cannot be read;
// what is known already stays known.
func TestFolderWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read and write everything")
	}
	m := NewMemory(t.TempDir(), time.Now)
	remember(t, m, 5)
	must(t, os.Chmod(m.Folder(address), 0o500))
	t.Cleanup(func() { must(t, os.Chmod(m.Folder(address), 0o700)) })
	if err := m.Remember(Document{Address: address}, 6); err == nil {
		t.Error("read-only: remembered")
	}
	if seen, err := m.Seen(address); err != nil || seen.Serial != 5 {
		t.Errorf("read-only: %+v, %v", seen, err)
	}
	must(t, os.Chmod(m.Folder(address), 0))
	if seen, err := m.Seen(address); err == nil {
		t.Errorf("not readable: %+v", seen)
	}
}

// A link in the place of a folder is neither read nor written through.
func TestPlantedLinks(t *testing.T) {
	for name, plant := range map[string]func(m *Memory) string{
		"of all":          func(m *Memory) string { return m.dir },
		"of one":          func(m *Memory) string { return m.Folder(address) },
		"of one, hanging": func(m *Memory) string { return m.Folder(address) },
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMemory(filepath.Join(t.TempDir(), "trust"), time.Now)
			remember(t, m, 5)
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			must(t, os.Rename(plant(m), elsewhere))
			must(t, os.Symlink(elsewhere, plant(m)))
			if strings.HasSuffix(name, "hanging") {
				must(t, os.RemoveAll(elsewhere))
			}
			if seen, err := m.Seen(address); !errors.Is(err, ErrPlanted) {
				t.Errorf("read: %+v, %v", seen, err)
			}
			if err := m.Remember(Document{Address: address}, 6); !errors.Is(err, ErrPlanted) {
				t.Errorf("written: %v", err)
			}
			if documents, _ := m.Documents(); len(documents) > 0 {
				t.Errorf("listed: %+v", documents)
			}
			if found, err := filepath.Glob(filepath.Join(elsewhere, "serial-6")); err != nil || len(found) > 0 {
				t.Error("written through the link")
			}
		})
	}
}

func TestFolderOpenToEverybodyIsClosed(t *testing.T) {
	m := NewMemory(filepath.Join(t.TempDir(), "trust"), time.Now)
	remember(t, m, 5)
	for _, dir := range []string{m.dir, m.Folder(address)} {
		must(t, os.Chmod(dir, 0o777))
	}
	if seen, err := m.Seen(address); err != nil || seen.Serial != 5 {
		t.Errorf("%+v, %v", seen, err)
	}
	for _, dir := range []string{m.dir, m.Folder(address)} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
}

// What is kept does not say how this user logs in; what is read back does.
func TestNoPasswordIsKept(t *testing.T) {
	const address = "https://me:secret@example.org/images/manifest.json"
	m := NewMemory(t.TempDir(), time.Now)
	must(t, m.Remember(Document{Address: address, Raw: []byte("x")}, 5))
	raw, err := os.ReadFile(filepath.Join(m.Folder(address), "last-5.json"))
	if err != nil || strings.Contains(string(raw), "secret") || strings.Contains(string(raw), "me:") {
		t.Errorf("kept %s, %v", raw, err)
	}
	seen, err := m.Seen(address)
	if err != nil || seen.Last == nil || seen.Last.Address != address || len(seen.Damage) > 0 {
		t.Errorf("%+v, %v", seen, err)
	}
	must(t, os.WriteFile(filepath.Join(m.Folder(address), "last-5.json"), []byte("{"), 0o644))
	if seen, err = m.Seen(address); err != nil || strings.Contains(strings.Join(seen.Damage, ""), "secret") {
		t.Errorf("%+v, %v", seen, err)
	}
}

// Files in the folder that mean nothing are not taken for serials.
func TestJunkInTheFolder(t *testing.T) {
	m := NewMemory(t.TempDir(), time.Now)
	remember(t, m, 5)
	for _, name := range []string{"serial-", "serial-x", "serial-99999999999999999999", "xserial-77", "serial-1e3"} {
		if err := os.WriteFile(filepath.Join(m.Folder(address), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if highest, err := m.Highest(address); err != nil || highest != 5 {
		t.Errorf("Highest = %d, %v", highest, err)
	}
}

func TestLastDocument(t *testing.T) {
	m := NewMemory(t.TempDir(), time.Now)
	if _, err := m.Last(address); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing remembered: %v", err)
	}
	remember(t, m, 1)
	want := remember(t, m, 2)
	got, err := m.Last(address)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	now := time.Now()
	m := NewMemory(t.TempDir(), func() time.Time { return now })
	remember(t, m, 1)
	old, young := filepath.Join(m.Folder(address), ".last-old"), filepath.Join(m.Folder(address), ".last-young")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, now, now.Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	remember(t, m, 2)
	if _, err := os.Lstat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a dead process's file stays")
	}
	if _, err := os.Lstat(young); err != nil {
		t.Error("a living process's file was removed")
	}
}

func TestManyRememberAtOnce(t *testing.T) {
	m := NewMemory(t.TempDir(), time.Now)
	var group sync.WaitGroup
	for serial := range int64(20) {
		group.Go(func() { remember(t, m, serial+1) })
	}
	group.Wait()
	if highest, err := m.Highest(address); err != nil || highest != 20 {
		t.Errorf("Highest = %d, %v", highest, err)
	}
	if _, err := m.Last(address); err != nil {
		t.Error(err)
	}
}

// Whatever is in the files of the memory: reading them ends, and gives no serial
// below the marks.
func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"address":"a","raw":"","signatures":{"x":"AA=="},"key_lists":[1]}`), []byte(`{"version":1,"raw":"AA=="}`))
	f.Add([]byte(`{"address":"https://example.org/images/manifest.json","key_lists":[-1,0,99999999999]}`), []byte(`[]`))
	dir := f.TempDir()
	m := NewMemory(dir, time.Now)
	must(f, os.MkdirAll(m.Folder(address), 0o755))
	must(f, os.WriteFile(filepath.Join(m.Folder(address), "serial-3"), nil, 0o644))
	f.Fuzz(func(t *testing.T, last, list []byte) {
		must(t, os.WriteFile(filepath.Join(m.Folder(address), "last-3.json"), last, 0o644))
		must(t, os.WriteFile(filepath.Join(m.Folder(address), "keys-1.json"), list, 0o644))
		seen, err := m.Seen(address)
		if err != nil || seen.Serial != 3 || seen.Last != nil && seen.Last.Address != address {
			t.Errorf("%+v, %v", seen, err)
		}
		for _, kept := range seen.Keys {
			if kept.Version != 1 {
				t.Errorf("key list %d from keys-1.json", kept.Version)
			}
			_, _, _ = Policy{Roots: []Root{{Threshold: 1}}}.Advance(kept)
		}
	})
}
