package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
)

// keepDull starts a machine without a guest and keeps it; it is still paused.
func keepDull(t *testing.T) (d *Driver, m *machine, spec vmm.Spec, dir string) {
	t.Helper()
	d, spec = needQEMU(t), dull(loop(t))
	spec.RunDir, spec.Network = t.TempDir(), true
	running, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Kill() })
	m, dir = running.(*machine), t.TempDir()
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Snapshot(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return d, m, spec, dir
}

// TestSnapshot keeps a machine without a guest, again and again, and restores it; the
// conformance suite does so with a guest.
func TestSnapshot(t *testing.T) {
	d, m, spec, dir := keepDull(t)
	for range 2 {
		if err := m.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if status, err := m.status(t.Context()); err != nil || status != "running" {
			t.Errorf("after a snapshot it is %s, %v", status, err)
		}
		if err := m.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Snapshot(t.Context(), t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{stateName, "machine.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	for range 2 {
		r, err := d.Restore(t.Context(), spec, dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Kill(); err != nil {
			t.Error(err)
		}
		if err := r.Wait(); err != nil {
			t.Errorf("Wait after Kill: %v", err)
		}
	}
}

// TestSnapshotLeavesNothing ends snapshots before they are whole: the machine goes on,
// and nothing is in the folder.
func TestSnapshotLeavesNothing(t *testing.T) {
	_, m, _, _ := keepDull(t)
	if err := errors.Join(m.Resume(t.Context()), m.Pause(t.Context())); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	full := t.TempDir()
	if err := os.Symlink("/dev/full", filepath.Join(full, stateName)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		dir  string
		want error
	}{
		"cancelled":       {cancelled, t.TempDir(), context.Canceled},
		"file is there":   {t.Context(), full, os.ErrExist},
		"folder is gone":  {t.Context(), filepath.Join(full, "x"), os.ErrNotExist},
		"and the machine": {t.Context(), t.TempDir(), nil},
	} {
		err := m.Snapshot(c.ctx, c.dir)
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(c.dir); c.want != nil && len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Errorf("a machine whose snapshots failed: %v", err)
	}
	if err := m.Snapshot(t.Context(), t.TempDir()); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("a running machine: %v", err)
	}
}

// TestRestoreRefuses changes what was kept.
func TestRestoreRefuses(t *testing.T) {
	d, _, spec, dir := keepDull(t)
	for name, c := range map[string]struct {
		change func(k *keptMachine)
		want   string
	}{
		"another QEMU":      {func(k *keptMachine) { k.Series = "6.1" }, "QEMU 6.1"},
		"another processor": {func(k *keptMachine) { k.CPU = "host" }, "another machine"},
		"accelerated":       {func(k *keptMachine) { k.Accel = "kvm" }, "ran with kvm"},
		"a later format":    {func(k *keptMachine) { k.Version = 99 }, "version 99"},
		"altered memory":    {func(k *keptMachine) { k.SHA256 = strings.Repeat("0", 64) }, "not what was kept"},
	} {
		var k keptMachine
		if err := vmm.ReadKept(dir, &k); err != nil {
			t.Fatal(err)
		}
		c.change(&k)
		other := t.TempDir()
		if err := errors.Join(vmm.WriteKept(other, k), os.Link(filepath.Join(dir, stateName), filepath.Join(other, stateName))); err != nil {
			t.Fatal(err)
		}
		m, err := d.Restore(t.Context(), spec, other)
		if err == nil {
			_ = m.Kill()
		}
		if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), other) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMoveEvents hears what QEMU says of a snapshot's way.
func TestMoveEvents(t *testing.T) {
	m := newPortForEvents(t)
	for _, data := range []string{`{"status": "setup"}`, `{"status": "active"}`, `[]`, `{}`, ``} {
		m.event("MIGRATION", json.RawMessage(data))
	}
	if len(m.moved) != 0 {
		t.Errorf("it has ended: %s", <-m.moved)
	}
	for range 3 { // nobody listens
		m.event("MIGRATION", json.RawMessage(`{"status": "failed"}`))
	}
	if got := <-m.moved; got != "failed" {
		t.Errorf("it ended as %q", got)
	}
}
