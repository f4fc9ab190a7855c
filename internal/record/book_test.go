package record

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// newBook opens the book of a fresh home, away from other users of /tmp.
func newBook(t *testing.T, home string) *Book {
	t.Helper()
	if home == "" {
		home = filepath.Join(t.TempDir(), "home")
	}
	b, err := Open(home)
	if err != nil {
		t.Fatal(err)
	}
	b.temp = t.TempDir()
	return b
}

// sample is a record with every field set.
func sample(b *Book, name string) Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return Record{
		Version: Version, Name: name, ID: "i-1", Preset: "claude-code", Arch: "amd64", VMM: "qemu", Accel: "tcg",
		Agent: Agent{Name: "claude-code", Version: "1.2.3"}, Launch: []string{"claude", "--x"},
		Image: Image{
			Release: "r1", Kernel: filepath.Join(b.home, "images/r1/kernel"), KernelVersion: "6.12", StandIn: "Debian",
			CommandLine: "quiet", Modules: filepath.Join(b.home, "images/r1/modules"),
			Layers: []Layer{{Name: "base", Path: filepath.Join(b.home, "images/r1/base.ext4"), SHA256: "ab"}},
		},
		CPUs: 2, MemoryMiB: 2048, DiskBytes: 20 << 30, Mode: wire.ModeRun, Extra: "/elsewhere/disk", ExtraReadOnly: true,
		Network: true, Created: at, Started: at, Stopped: at, State: Created, LastError: "none \"so\" far\n",
		Boot: &wire.BootReport{Kernel: "6.12", Agent: "x", UptimeMS: 5, StepsMS: map[string]int64{"a": 1}}, Pid: 7, VMMPid: 8,
	}
}

// create makes a sandbox with a record and gives its lock up.
func create(t *testing.T, b *Book, name string) Record {
	t.Helper()
	lock, err := b.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	r := sample(b, name)
	if err := errors.Join(b.Write(r), lock.Release()); err != nil {
		t.Fatal(err)
	}
	return r
}

// wantFault fails unless err has the code and its text holds all parts.
func wantFault(t *testing.T, err error, code fault.Code, parts ...string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != code {
		t.Fatalf("got error %v (code %s), want code %s", err, fault.CodeOf(err), code)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestWriteRead(t *testing.T) {
	b := newBook(t, "")
	want := create(t, b, "one")
	got, err := b.Read("one")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	info, err := os.Stat(b.Folder("one").Record())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record has mode %v, %v", info.Mode(), err)
	}
}

func TestFolderMoved(t *testing.T) {
	parent := t.TempDir()
	b := newBook(t, filepath.Join(parent, "old"))
	create(t, b, "one")
	if err := os.Rename(filepath.Join(parent, "old"), filepath.Join(parent, "new")); err != nil {
		t.Fatal(err)
	}
	b = newBook(t, filepath.Join(parent, "new"))
	got, err := b.Read("one")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(b, "one"), got); d != "" {
		t.Errorf("paths did not move along: %s", d)
	}
}
