package conformance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance/guest"
)

// kept takes one machine through pause, snapshot and two restores at once.
func kept(t *testing.T, s Setup, layer string) {
	spec, console := newSpec(t, s, layer)
	spec.Track = s.Differ
	b := startSpec(t, s, spec, console)
	c := b.link(t)
	boot := c.look(t).BootID
	write(t, c, "before")
	before := c.keep(t)
	machine, dir := b.machine.(vmm.Snapshotter), t.TempDir()
	if err := machine.Snapshot(t.Context(), dir); err == nil {
		t.Error("a running machine was kept")
	}
	t.Run("Pause", func(t *testing.T) { paused(t, machine, c) })
	full := b.take(t, machine.Snapshot, dir)
	copies := []string{full.scratch, copyOf(t, full.scratch), copyOf(t, full.scratch)}
	t.Run("GoesOn", func(t *testing.T) { c = goesOn(t, b, boot) })
	if s.Differ {
		t.Run("Differ", func(t *testing.T) { differs(t, b, c, full, before) })
	} else {
		t.Run("NoDiffer", func(t *testing.T) { differsNot(t, s, layer) })
	}
	t.Run("Restore", func(t *testing.T) { restored(t, b, dir, boot, copies[1:], before) })
	t.Run("Refuse", func(t *testing.T) { refused(t, b, dir, copies[1]) })
}

// snapshot is one that was taken.
type snapshot struct {
	dir     string
	scratch string // a copy of the disk of that moment
	written int64  // bytes, by the monitor while it was paused
}

// take pauses the machine, keeps it in dir by snap, and lets it go on.
func (b *bench) take(t *testing.T, snap func(context.Context, string) error, dir string) snapshot {
	t.Helper()
	machine, begun, before := b.machine.(vmm.Pauser), time.Now(), b.written(t)
	if err := machine.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := snap(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	kept := snapshot{dir: dir, written: b.written(t) - before}
	t.Logf("paused and kept in %v: %d MB, of which %d were written", time.Since(begun).Round(time.Millisecond), secret(t, dir)/1e6, kept.written/1e6)
	kept.scratch = copyOf(t, b.scratch)
	if err := machine.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	return kept
}

func (b *bench) written(t *testing.T) int64 {
	if b.setup.Written == nil {
		return 0
	}
	return b.setup.Written(t, b.machine)
}

// paused checks that a halted guest answers when it goes on, and not before.
func paused(t *testing.T, m vmm.Pauser, c *client) {
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.tell(t, guest.Request{Op: guest.Look})
	if err := c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if line, err := c.in.ReadBytes('\n'); !errors.Is(err, os.ErrDeadlineExceeded) || len(line) > 0 {
		t.Errorf("a paused guest said %q, %v", line, err)
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.limit(t)
	if a := c.answer(t, guest.Look); a.Info == nil {
		t.Errorf("a guest that was paused: %s", a.Error)
	}
}

// goesOn checks that the machine itself runs on, with a new link, and no longer
// changes what was kept.
func goesOn(t *testing.T, b *bench, boot string) *client {
	c := b.link(t)
	if got := c.look(t).BootID; got != boot {
		t.Errorf("boot %s after a snapshot, want %s", got, boot)
	}
	if b.network != nil {
		talk(t, c, b.network, b.setup.Bulk)
	}
	write(t, c, "behind")
	return c
}

// restored runs two machines from one snapshot, each with its copy of the scratch.
func restored(t *testing.T, first *bench, dir, boot string, copies []string, memory []byte) {
	var all []*bench
	for _, path := range copies {
		all = append(all, restore(t, first, dir, path))
	}
	var clients []*client
	for i, b := range all {
		c := b.link(t)
		clients = append(clients, c)
		if got := c.look(t).BootID; got != boot {
			t.Errorf("boot %s after a restore, want %s", got, boot)
		}
		if b.network != nil {
			talk(t, c, b.network, b.setup.Bulk)
		}
		if got := c.ask(t, guest.Request{Op: guest.Read, Drive: "scratch", N: 6}); string(got.Data) != "before" {
			t.Errorf("the scratch of copy %d holds %q", i, got.Data)
		}
		c.remembers(t, memory)
		own := fmt.Sprintf("copy %d", i)
		write(t, c, own)
		if text := readDrive(t, b.scratch, 6); text != own {
			t.Errorf("copy %d of the scratch holds %q", i, text)
		}
	}
	if !t.Failed() {
		t.Run("Reboot", func(t *testing.T) { rebootRestored(t, all[0], clients[0], boot) })
	}
	for _, b := range all {
		if err := b.machine.Kill(); err != nil {
			t.Error(err)
		}
		if err := waitEnd(t, b.machine); err != nil {
			t.Errorf("Wait after Kill: %v", err)
		}
		if files, err := os.ReadDir(b.spec.RunDir); err != nil || len(files) > 0 {
			t.Errorf("left in the run folder: %v %v", files, err)
		}
	}
}

func restore(t *testing.T, first *bench, dir, scratch string) *bench {
	t.Helper()
	spec, console := respec(t, first, scratch)
	return restoreSpec(t, first, spec, console, dir)
}

func restoreSpec(t *testing.T, first *bench, spec vmm.Spec, console *buffer, dir string) *bench {
	t.Helper()
	begun := time.Now()
	m, err := first.setup.Driver.(vmm.Restorer).Restore(t.Context(), spec, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("restored in %v", time.Since(begun).Round(time.Millisecond))
	return newBench(t, first.setup, spec, console, m)
}

// respec is the spec of a machine with another scratch.
func respec(t *testing.T, first *bench, scratch string) (vmm.Spec, *buffer) {
	spec, console := first.spec, newBuffer()
	spec.Console, spec.RunDir, spec.Track = console, t.TempDir(), false
	spec.Drives = []vmm.Drive{spec.Drives[0], {ID: spec.Drives[1].ID, Path: scratch}}
	return spec, console
}

// refused checks snapshots that do not fit or are damaged; nothing of such a start is
// left.
func refused(t *testing.T, first *bench, dir, scratch string) {
	for name, spoil := range map[string]func(t *testing.T, spec *vmm.Spec, dir string){
		"other memory": func(_ *testing.T, spec *vmm.Spec, _ string) { spec.MemoryMiB *= 2 },
		"other drives": func(_ *testing.T, spec *vmm.Spec, _ string) { spec.Drives = spec.Drives[1:] },
		"no snapshot":  func(_ *testing.T, _ *vmm.Spec, dir string) { empty(t, dir) },
		"cut":          func(t *testing.T, _ *vmm.Spec, dir string) { cut(t, dir) },
	} {
		t.Run(name, func(t *testing.T) {
			spoiled := copyFolder(t, dir)
			spec, _ := respec(t, first, scratch)
			spoil(t, &spec, spoiled)
			m, err := first.setup.Driver.(vmm.Restorer).Restore(t.Context(), spec, spoiled)
			if err == nil {
				_ = m.Kill()
				t.Fatal("it was restored")
			}
			if !strings.Contains(err.Error(), spec.Name) {
				t.Errorf("%q does not name the machine", err)
			}
			if files, err := os.ReadDir(spec.RunDir); err != nil || len(files) > 0 {
				t.Errorf("left in the run folder: %v %v", files, err)
			}
		})
	}
}

func rebootRestored(t *testing.T, b *bench, c *client, boot string) {
	c.end(t, guest.Reboot, "")
	if got := b.link(t).look(t).BootID; got == boot {
		t.Errorf("boot %s after a reboot, want another", got)
	}
}

func write(t *testing.T, c *client, text string) {
	t.Helper()
	if got := c.ask(t, guest.Request{Op: guest.Write, Drive: "scratch", Data: []byte(text)}); got.Error != "" {
		t.Fatal(got.Error)
	}
}

// secret is the size of a snapshot, whose files nobody else may read.
func secret(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		size += info.Size()
		return nil
	})
	if err != nil || size == 0 {
		t.Errorf("the snapshot has %d bytes, %v", size, err)
	}
	return size
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func copyFolder(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

// cut halves the largest file.
func cut(t *testing.T, dir string) {
	t.Helper()
	var longest os.FileInfo
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && (longest == nil || info.Size() > longest.Size()) {
			longest = info
		}
	}
	if err := os.Truncate(filepath.Join(dir, longest.Name()), longest.Size()/2); err != nil {
		t.Fatal(err)
	}
}
