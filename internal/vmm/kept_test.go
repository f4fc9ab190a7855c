package vmm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/vmm"
)

func TestKeptFits(t *testing.T) {
	spec := vmm.Spec{Arch: "amd64", CPUs: 2, MemoryMiB: 512, Drives: []vmm.Drive{{ID: "layer0", ReadOnly: true}, {ID: "scratch"}}}
	dir := t.TempDir()
	if err := vmm.WriteKept(dir, vmm.Keep(spec)); err != nil {
		t.Fatal(err)
	}
	var k vmm.Kept
	if err := vmm.ReadKept(dir, &k); err != nil {
		t.Fatal(err)
	}
	if err := k.Fits(spec); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*vmm.Spec){
		"another size":     func(s *vmm.Spec) { s.MemoryMiB *= 2 },
		"more processors":  func(s *vmm.Spec) { s.CPUs = 4 },
		"another order":    func(s *vmm.Spec) { s.Drives = []vmm.Drive{s.Drives[1], s.Drives[0]} },
		"a network card":   func(s *vmm.Spec) { s.Network = true },
		"a writable layer": func(s *vmm.Spec) { s.Drives = []vmm.Drive{{ID: "layer0"}, {ID: "scratch"}} },
	} {
		other := spec
		change(&other)
		if err := k.Fits(other); err == nil {
			t.Errorf("%s: it fits", name)
		}
	}
	if err := vmm.RemoveKept(dir, "state"); err != nil {
		t.Error(err)
	}
	if err := vmm.ReadKept(dir, &k); !os.IsNotExist(err) {
		t.Errorf("read what was removed: %v", err)
	}
}

func TestKeptBase(t *testing.T) {
	for _, c := range []struct {
		id, latest string
		fits       bool
	}{{"a", "a", true}, {"a", "b", false}, {"a", "", false}, {"", "", false}, {"", "a", false}} {
		k := vmm.Kept{ID: c.id}
		if err := k.Base(c.latest); (err == nil) != c.fits {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// FuzzKept reads any file as a snapshot's.
func FuzzKept(f *testing.F) {
	f.Add([]byte(`{"version":1,"arch":"amd64","cpus":2,"memory_mib":512,"drives":["layer0*","scratch"]}`))
	f.Add([]byte(strings.Repeat(" ", 70<<10)))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "machine.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		var k vmm.Kept
		if err := vmm.ReadKept(dir, &k); err == nil && len(text) > 64<<10 {
			t.Errorf("read %d bytes", len(text))
		}
		_ = k.Fits(vmm.Spec{})
	})
}
