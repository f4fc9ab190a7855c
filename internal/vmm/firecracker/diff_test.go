package firecracker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker/apitest"
)

// TestDiff keeps a machine of the stand-in by what changed, twice, the second time a
// restored one; the conformance suite does so with a guest.
func TestDiff(t *testing.T) {
	driver := standIn(t)
	spec, _ := testSpec(t, "poweroff")
	spec.Track = true
	m, err := driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill() //nolint:errcheck // never fails
	base, second, third := t.TempDir(), t.TempDir(), t.TempDir()
	take(t, m.(vmm.Snapshotter).Snapshot, m, base)
	differ(t, m, base, second)
	holds(t, base, "kept 1", "")
	holds(t, second, "kept 1", "kept 2")

	again, _ := testSpec(t, "")
	again.Track = true
	r, err := driver.Restore(t.Context(), again, second)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill() //nolint:errcheck // never fails
	differ(t, r, second, third)
	holds(t, third, "kept 1", "kept 2", "kept 3")
	if err := m.(vmm.Differ).Prepare(t.Context(), third); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("the base of another run: %v", err)
	}
}

func take(t *testing.T, snap func(context.Context, string) error, m vmm.Machine, dir string) {
	t.Helper()
	p := m.(vmm.Pauser)
	if err := p.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := snap(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func differ(t *testing.T, m vmm.Machine, base, dir string) {
	t.Helper()
	d := m.(vmm.Differ)
	if err := d.Prepare(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	take(t, d.Diff, m, dir)
}

// holds checks the pages of a snapshot's memory behind the first.
func holds(t *testing.T, dir string, pages ...string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, memoryName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, want := range pages {
		text := make([]byte, 4096)
		if _, err := f.ReadAt(text, int64(i+1)*4096); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimRight(string(text), "\x00"); got != want {
			t.Errorf("page %d of %s holds %q, want %q", i+1, dir, got, want)
		}
	}
}

// TestDiffRefused: without a base of this run there are no differences, and a base that
// is refused or cannot be copied leaves nothing.
func TestDiffRefused(t *testing.T) {
	driver := standIn(t)
	spec, _ := testSpec(t, "reboot")
	spec.Track = true
	m, err := driver.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill() //nolint:errcheck // never fails
	d, base := m.(vmm.Differ), t.TempDir()
	if err := d.Diff(t.Context(), t.TempDir()); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("nothing prepared: %v", err)
	}
	take(t, d.Snapshot, m, base)
	cut := filepath.Join(t.TempDir(), "cut")
	if err := os.CopyFS(cut, os.DirFS(base)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(cut, memoryName), 4096); err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(t.Context(), cut); fault.CodeOf(err) != fault.Storage {
		t.Errorf("a base that was cut: %v", err)
	}
	if err := d.Prepare(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := d.Diff(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("a running machine: %v", err)
	}
	nothingLeft(t, dir)
	if err := d.Prepare(t.Context(), base); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("after one that failed: %v", err)
	}
	take(t, d.Snapshot, m, dir)
	letGo(t, m) // it reboots
	conn, err := m.Link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := d.Prepare(t.Context(), dir); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("after a reboot: %v", err)
	}

	plain, _ := testSpec(t, "")
	untracked, err := driver.Restore(t.Context(), plain, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer untracked.Kill() //nolint:errcheck // never fails
	if err := untracked.(vmm.Differ).Prepare(t.Context(), dir); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "without noting") {
		t.Errorf("a machine that does not track: %v", err)
	}
}

// TestMisplacing: versions that damage differences of large machines are refused those.
func TestMisplacing(t *testing.T) {
	for _, c := range []struct {
		version, arch string
		mib           int64
		refused       bool
	}{
		{"1.12.1", "amd64", 4096, false},
		{"1.14.0", "amd64", 4096, true},
		{"1.14.1", "amd64", 3074, true},
		{"1.14.1", "amd64", 3072, false},
		{"1.14.1", "arm64", 4096, false},
		{"1.14.2", "amd64", 4096, false},
	} {
		m := &machine{
			spec: vmm.Spec{Name: "test", Arch: c.arch, MemoryMiB: c.mib, Track: true},
			api:  serve(t, &apitest.Server{Version: c.version}),
		}
		if err := m.tracks(t.Context()); (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
