//go:build vm

package vm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/test/catalogue"
)

// TestPullAgainstPrune has pulls and prunes of everything at the same time: every
// command succeeds, and what is left at the end is whole.
func TestPullAgainstPrune(t *testing.T) {
	s := newSite(t)
	w := s.world(t)
	rounds := 3
	if *long {
		rounds = 40
	}
	for range rounds {
		var group sync.WaitGroup
		for _, args := range [][]string{s.pull(), s.args("image", "verify"), s.args("prune", "--all", "--yes"), s.pull(), s.args("prune", "--all", "--yes")} {
			group.Go(func() {
				if got := w.run(t, nil, args...); got.status != 0 {
					t.Errorf("%v ended with %d: %s", args[2:], got.status, got.stderr)
				}
			})
		}
		group.Wait()
		if len(w.listed(t)) > 0 && s.wrong(t, w) != "" {
			t.Errorf("an image is listed: %s", s.wrong(t, w))
		}
		if t.Failed() {
			return
		}
	}
	w.must(t, s.pull()...)
	if text := s.wrong(t, w); text != "" {
		t.Error(text)
	}
	w.must(t, s.args("prune", "--all", "--yes")...)
	for _, path := range look(t, w.home).paths {
		if strings.HasPrefix(path, "store/") || strings.HasPrefix(path, "images/") {
			t.Errorf("left after a prune of everything: %s", path)
		}
	}
}

// TestLaunchAgainstPrune launches from an empty cache while everything that
// nobody needs is removed again and again.
func TestLaunchAgainstPrune(t *testing.T) {
	needLong(t)
	from := serve(t, *images)
	w := theWorld.fresh(t, from.address)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		for {
			select {
			case <-stop:
				done <- count
				return
			default:
				if got := w.run(t, nil, "prune", "--all", "--yes"); got.status != 0 {
					t.Errorf("prune ended with %d: %s", got.status, got.stderr)
				}
				count++
			}
		}
	}()
	for i := range 4 {
		name := fmt.Sprintf("pruned-%d", i)
		w.must(t, launch(name)...)
		w.must(t, "exec", name, "--", "node", "--version")
		w.must(t, "stop", name)
		w.must(t, "start", name, "--no-attach")
		w.must(t, "exec", name, "--", "node", "--version")
		if i%2 == 1 {
			w.must(t, "delete", "--all", "--yes") // the next one finds an empty cache, or nearly
		}
	}
	close(stop)
	t.Logf("%d prunes meanwhile", <-done)
}

// TestUpgradeUnderARunningSandbox publishes a release with another kernel
// while a sandbox runs the one before. The new one is used for new sandboxes, the
// old one stays as long as its sandbox does.
func TestUpgradeUnderARunningSandbox(t *testing.T) {
	needLong(t)
	dir := t.TempDir()
	made := republished(t, dir)
	from := serve(t, dir)
	w := theWorld.fresh(t, from.address)
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte(made.PublicKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(args ...string) []string { return append([]string{"--trusted-key", key}, args...) }

	w.must(t, with(launch("old")...)...)
	before := from.total()
	next(t, made)
	w.must(t, with(launch("new")...)...)
	kernel := made.Manifest.Rows[0].Kernel.Image.Archive.Size
	if sent := from.total() - before; sent == 0 || sent > kernel {
		t.Errorf("the upgrade downloaded %d bytes; the archive that is new has %d", sent, kernel)
	}
	w.must(t, with("prune", "--yes")...)
	w.must(t, "exec", "old", "--", "true")
	w.must(t, "stop", "old")
	w.must(t, with("prune", "--all", "--yes")...)
	w.must(t, "start", "old", "--no-attach")
	w.must(t, "exec", "old", "--", "true")
	w.must(t, "delete", "old", "--yes")
	full := look(t, w.home).bytes
	w.must(t, with("prune", "--yes")...)
	if now := look(t, w.home).bytes; now >= full {
		t.Errorf("%d bytes on disk after the last prune, %d before", now, full)
	}
	w.must(t, "exec", "new", "--", "true")
	w.must(t, with("image", "verify")...)
}

// republished is one image of the published release again, signed by a key of this test.
func republished(t *testing.T, dir string) *catalogue.Catalogue {
	t.Helper()
	made, err := catalogue.Make(t.Context(), t.TempDir(), published(t).Created)
	if err != nil {
		t.Fatal(err)
	}
	made.Dir, made.Address, made.Manifest = dir, filepath.Join(dir, "manifest.json"), published(t)
	made.Manifest.Rows = slices.DeleteFunc(made.Manifest.Rows, func(r manifest.Row) bool {
		return r.Preset != "claude-code" || r.Arch != runtime.GOARCH || r.VMM != "qemu"
	})
	if len(made.Manifest.Rows) != 1 {
		t.Fatal("claude-code is not published")
	}
	entries, err := os.ReadDir(*images)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "manifest.json") {
			continue
		}
		from, err := filepath.Abs(filepath.Join(*images, entry.Name()))
		if err == nil {
			err = os.Symlink(from, filepath.Join(dir, entry.Name()))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := made.Publish(); err != nil {
		t.Fatal(err)
	}
	return made
}

// next publishes a release whose kernel ends with a few more zeros, which nobody reads.
func next(t *testing.T, made *catalogue.Catalogue) {
	t.Helper()
	world := theWorld.fresh(t, theWorld.address)
	world.must(t, "image", "pull", "claude")
	found, err := filepath.Glob(filepath.Join(world.home, "images/*/claude-code-*/kernel"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no kernel in the cache: %v, %v", found, err)
	}
	kernel, err := made.Add(t.Context(), "kernel", []byte(read(t, found[0])+strings.Repeat("\x00", 4096)))
	if err != nil {
		t.Fatal(err)
	}
	m := &made.Manifest
	m.Rows[0].Kernel.Image = kernel
	m.Release, m.Serial = m.Release+".next", m.Serial+1
	if err := made.Publish(); err != nil {
		t.Fatal(err)
	}
}
