package firecracker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
)

// TestSnapshot keeps a machine of the stand-in and restores it; the conformance suite does
// so with a guest.
func TestSnapshot(t *testing.T) {
	driver := standIn(t)
	spec, _ := testSpec(t, "poweroff")
	m, err := driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill() //nolint:errcheck // never fails
	dir, s := t.TempDir(), m.(vmm.Snapshotter)
	if err := s.Snapshot(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "set the snapshot") {
		t.Errorf("a running machine: %v", err)
	}
	nothingLeft(t, dir)
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	for _, name := range []string{stateName, memoryName, "machine.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for name, change := range map[string]func(*vmm.Spec){
		"another size":    func(s *vmm.Spec) { s.MemoryMiB *= 2 },
		"more processors": func(s *vmm.Spec) { s.CPUs = 2 },
		"another order":   func(s *vmm.Spec) { s.Drives[0], s.Drives[1] = s.Drives[1], s.Drives[0] },
		"a network card":  func(s *vmm.Spec) { s.Network = true },
		"a writable layer": func(s *vmm.Spec) {
			s.Drives[0].ReadOnly = false
		},
	} {
		other, _ := testSpec(t, "")
		change(&other)
		if _, err := driver.Restore(t.Context(), other, dir); fault.CodeOf(err) != fault.Conflict {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 {
		again, out := testSpec(t, "")
		r, err := driver.Restore(t.Context(), again, dir)
		if err != nil {
			t.Fatal(err)
		}
		letGo(t, r)
		if err := r.Wait(); err != nil {
			t.Errorf("a restored machine that powers off: %v; %s", err, out)
		}
		nothingLeft(t, again.RunDir)
	}
	if err := os.Remove(filepath.Join(dir, memoryName)); err != nil {
		t.Fatal(err)
	}
	again, _ := testSpec(t, "")
	if _, err := driver.Restore(t.Context(), again, dir); err == nil || !strings.Contains(err.Error(), "load snapshot error") {
		t.Errorf("a snapshot without its memory: %v", err)
	}
	nothingLeft(t, again.RunDir)
}
