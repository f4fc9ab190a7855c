package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "0", "claude-code-2", "a-", strings.Repeat("x", 63)} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	b := newBook(t, "")
	kept, err := OpenSnapshots(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"", ".", "..", "../x", "/etc/x", `a\b`, "a/b", "a\x00b", "a\nb", "-rf", "a b", "A", "Ünder", "a.b", "a_b", ".gate",
		removedPrefix + "x", strings.Repeat("x", 64), strings.Repeat("x", 1<<20), "a\x1b[31m", "a\xff", "con:",
	} {
		wantFault(t, ValidateName(name), fault.Usage, "sandbox name")
		wantFault(t, ValidateSnapshotName(name), fault.Usage, "snapshot name")
		_, err := kept.Create(name)
		wantFault(t, err, fault.Usage, "snapshot name")
		_, err = b.Create(name)
		wantFault(t, err, fault.Usage)
		_, err = b.Read(name)
		wantFault(t, err, fault.Usage)
		_, err = b.Lock(name)
		wantFault(t, err, fault.Usage)
		wantFault(t, b.Remove(name), fault.Usage)
		wantFault(t, b.Write(Record{Name: name, State: Created}), fault.Usage)
		if b.Held(name) {
			t.Errorf("%q is held", name)
		}
	}
	if _, err := os.Lstat(b.home); err == nil {
		t.Error("bad names made the state folder")
	}
}

func TestNamesIgnoreWhatIsNone(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "two")
	create(t, b, "one")
	for _, name := range []string{"One", ".hidden", "a b", "x\ny"} {
		if err := os.Mkdir(filepath.Join(b.dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Names()
	if d := cmp.Diff([]string{"one", "two"}, got); d != "" || err != nil {
		t.Error(d, err)
	}
}

func TestNotThere(t *testing.T) {
	for _, b := range []*Book{newBook(t, ""), func() *Book { b := newBook(t, ""); create(t, b, "other"); return b }()} {
		_, err := b.Read("one")
		wantFault(t, err, fault.NotFound, `no sandbox "one"`)
		_, err = b.Lock("one")
		wantFault(t, err, fault.NotFound)
		wantFault(t, b.Remove("one"), fault.NotFound)
		wantFault(t, b.Write(sample(b, "one")), fault.NotFound)
	}
	_, err := Open("relative")
	wantFault(t, err, fault.Usage)
}

func TestCreateTaken(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "one")
	_, err := b.Create("one")
	wantFault(t, err, fault.Conflict, "one")
	if fault.HintOf(err) == "" {
		t.Error("no hint what to do")
	}
}

// TestBroken damages a record: it is told apart, kept as it is, and removable.
func TestBroken(t *testing.T) {
	whole, err := encode(sample(&Book{home: "/h"}, "one"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ data, want string }{
		"empty":    {"", "damaged"},
		"cut":      {string(whole[:len(whole)/2]), "damaged"},
		"zeros":    {strings.Repeat("\x00", 4096), "damaged"},
		"text":     {"hello", "damaged"},
		"list":     {"[]", "damaged"},
		"null":     {"null", "no version"},
		"no ver":   {"{}", "no version"},
		"negative": {`{"version":-1}`, "no version"},
		"type":     {strings.Replace(string(whole), `"cpus": 2`, `"cpus": "2"`, 1), "damaged"},
		"huge":     {strings.Replace(string(whole), `"cpus": 2`, `"cpus": 1e99`, 1), "damaged"},
		"minus":    {strings.Replace(string(whole), `"cpus": 2`, `"cpus": -2`, 1), "negative"},
		"state":    {strings.Replace(string(whole), `"state": "created"`, `"state": "?"`, 1), "unknown state"},
		"path":     {strings.Replace(string(whole), `"/h/images`, `"../../etc`, 1), "leaves the state folder"},
		"twice":    {string(whole) + string(whole), "damaged"},
		"renamed":  {strings.Replace(string(whole), `"one"`, `"two"`, 1), `sandbox "two"`},
		"large":    {string(whole) + strings.Repeat(" ", maxRecord), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.data == string(whole) {
				t.Fatal("the record was not damaged")
			}
			b := newBook(t, "")
			create(t, b, "one")
			if err := os.WriteFile(b.Folder("one").Record(), []byte(c.data), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := b.Read("one")
			wantFault(t, err, fault.Storage, `read sandbox "one"`, c.want)
			if got, err := os.ReadFile(b.Folder("one").Record()); err != nil || string(got) != c.data {
				t.Errorf("reading changed it: %v", err)
			}
			if !strings.Contains(fault.HintOf(err), "smolvm delete one") {
				t.Errorf("hint %q", fault.HintOf(err))
			}
			if err := b.Remove("one"); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, b)
		})
	}
}

// TestNewerFields: what a newer program of the same version added survives a change
// by this one. Inside of what this one knows it would be lost, so that is refused.
func TestNewerFields(t *testing.T) {
	b := newBook(t, "")
	r := create(t, b, "one")
	if err := b.Write(r); err != nil {
		t.Fatal(err)
	}
	path := b.Folder("one").Record()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(whole), `"name"`, `"colour": {"red": 12345678901234567890.5, "names": ["<a>", null]}, "name"`, 1)
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := b.Read("one")
	if err != nil || got.Name != "one" {
		t.Fatalf("%+v, %v", got, err)
	}
	got.CPUs++
	if err := b.Write(got); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	var fields struct {
		CPUs   int
		Colour struct {
			Red   json.Number
			Names []any
		}
	}
	if err := errors.Join(err, json.Unmarshal(after, &fields)); err != nil {
		t.Fatal(err)
	}
	if fields.CPUs != got.CPUs || fields.Colour.Red != "12345678901234567890.5" || fields.Colour.Names[0] != "<a>" {
		t.Errorf("after a change it is\n%s", after)
	}

	nested := strings.Replace(string(whole), `"agent": {`, `"agent": {"mood": 1,`, 1)
	if err := os.WriteFile(path, []byte(nested), 0o600); err != nil || nested == string(whole) {
		t.Fatal(err)
	}
	_, err = b.Read("one")
	wantFault(t, err, fault.Conflict, "one", "mood")
	if hint := fault.HintOf(err); !strings.Contains(hint, "upgrade") || strings.Contains(hint, "delete") {
		t.Errorf("hint %q", hint)
	}
}

// TestOtherVersion meets the record of another program version: refused with
// words that say why, never replaced, still removable.
func TestOtherVersion(t *testing.T) {
	b := newBook(t, "")
	r := create(t, b, "one")
	foreign := []byte(`{"version": 2, "name": "one", "shape": {"new": true}}`)
	if err := os.WriteFile(b.Folder("one").Record(), foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := b.Read("one")
	wantFault(t, err, fault.Conflict, "one", "version 2", "version 1")
	if !strings.Contains(fault.HintOf(err), "upgrade") {
		t.Errorf("hint %q", fault.HintOf(err))
	}
	wantFault(t, b.Write(r), fault.Conflict, "version 2")
	if got, err := os.ReadFile(b.Folder("one").Record()); err != nil || !bytes.Equal(got, foreign) {
		t.Errorf("it became %q, %v", got, err)
	}
	if err := b.Remove("one"); err != nil {
		t.Error(err)
	}
}

func TestWriteRefuses(t *testing.T) {
	b := newBook(t, "")
	for want, change := range map[string]func(*Record){
		"unknown state": func(r *Record) { r.State = "" },
		"negative":      func(r *Record) { r.DiskBytes = -1 },
		"limit":         func(r *Record) { r.LastError = strings.Repeat("x", maxRecord) },
	} {
		r := sample(b, "one")
		change(&r)
		if err := b.Write(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWriteKeepsItsInput(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "one")
	r := sample(b, "one")
	if err := b.Write(r); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(b, "one"), r); d != "" {
		t.Error(d)
	}
}

func FuzzDecode(f *testing.F) {
	whole, err := encode(sample(&Book{home: "/h"}, "one"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"version":1,"name":"a","state":"created"}`))
	f.Add([]byte(`{"version":9}`))
	f.Add([]byte(`{"version":1,"name":"a","state":"created","newer":{"<":1e5,"b":[null,"\xff"]},"NAME":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		again, err := encode(r)
		if err != nil {
			t.Fatalf("%+v was read but cannot be written: %v", r, err)
		}
		back, err := Decode(again)
		if d := cmp.Diff(r, back); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
	})
}

// TestImageAddress keeps the catalogue's address, and reads the records of
// programs that did not.
func TestImageAddress(t *testing.T) {
	b := newBook(t, "")
	r := create(t, b, "one")
	without, err := encode(r)
	if err != nil || strings.Contains(string(without), `"address"`) {
		t.Fatalf("without an address: %s, %v", without, err)
	}
	if _, err := Decode(without); err != nil {
		t.Fatal(err)
	}
	r.Image.Address = "https://example.org/images/manifest.json"
	if err := b.Write(r); err != nil {
		t.Fatal(err)
	}
	got, err := b.Read("one")
	if err != nil || got.Image.Address != r.Image.Address {
		t.Errorf("read %q, %v", got.Image.Address, err)
	}
}
