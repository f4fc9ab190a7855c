package acquire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

func TestSecondLaunchFetchesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.mustLaunch(t)
	if image.KernelVersion != "6.12.0-test" || image.StandIn != "nobody" || image.Release != "1.0.0" {
		t.Errorf("image = %+v", image)
	}
	w.server.Set("base", faulty.Fault{})
	before := w.server.Requests(w.asset("base").Archive.File)
	again := w.mustLaunch(t)
	if again.Kernel != image.Kernel || w.server.Requests(w.asset("base").Archive.File) != before {
		t.Errorf("second launch: %+v after %d requests", again, before)
	}
	for _, name := range []string{"kernel", "modules", "base", "claude-code"} {
		if done := fmt.Sprintf("done %s %d ", name, w.asset(name).Archive.Size); strings.Count(w.events.text(), done) != 1 {
			t.Errorf("no single event %q in\n%s", done, w.events.text())
		}
	}
}

func TestFilesAreReadOnlyAndShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.mustLaunch(t)
	view := filepath.Join(w.home, "images", "1.0.0", "claude-code-amd64-qemu")
	shown, err := os.Stat(filepath.Join(view, "base.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	booted, err := os.Stat(image.Layers[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(shown, booted) || booted.Mode() != 0o444 {
		t.Errorf("shown %v, booted %v: not one read-only file", shown.Mode(), booted.Mode())
	}
	mark, err := os.ReadFile(filepath.Join(view, "base.ext4.from-sha256"))
	if err != nil || string(mark) != w.asset("base").Archive.SHA256+"\n" {
		t.Errorf("sidecar %q, %v", mark, err)
	}
}

// The disk that boots is altered while everything that describes it stays.
func TestAlteredFilesNeverBoot(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, path string){
		"same size": func(t *testing.T, path string) {
			must(t, os.Chmod(path, 0o644))
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("evil"), 8192)
			must(t, err)
			must(t, f.Close())
		},
		"same size and time": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.Chmod(path, 0o644))
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("evil"), 8192)
			must(t, err)
			must(t, f.Close())
			must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"cut to 4 KiB": func(t *testing.T, path string) { must(t, os.Chmod(path, 0o644)); must(t, os.Truncate(path, 4096)) },
		"emptied":      func(t *testing.T, path string) { must(t, os.Chmod(path, 0o644)); must(t, os.Truncate(path, 0)) },
		"a link": func(t *testing.T, path string) {
			other := filepath.Join(t.TempDir(), "evil")
			must(t, os.WriteFile(other, catalogue.Disk(9), 0o644))
			must(t, os.Remove(path))
			must(t, os.Symlink(other, path))
		},
		"a link to the right bytes": func(t *testing.T, path string) {
			other := filepath.Join(t.TempDir(), "later-evil")
			must(t, os.Rename(path, other))
			must(t, os.Symlink(other, path))
		},
		"replaced": func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.WriteFile(path, catalogue.Disk(9), 0o444))
		},
		"gone":            func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"no index":        func(t *testing.T, path string) { must(t, os.Remove(sibling(path, "index.json"))); touch(t, path) },
		"index altered":   func(t *testing.T, path string) { rewrite(t, sibling(path, "index.json")); touch(t, path) },
		"record emptied":  func(t *testing.T, path string) { must(t, os.Truncate(sibling(path, "record.json"), 0)) },
		"folder replaced": func(t *testing.T, path string) { replaceFolder(t, filepath.Dir(path)) },
	}
	for name, alter := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			image := w.mustLaunch(t)
			alter(t, image.Layers[0].Path)
			again := w.mustLaunch(t)
			if info, err := os.Lstat(again.Layers[0].Path); err != nil || !info.Mode().IsRegular() {
				t.Errorf("%s: %v, %v", again.Layers[0].Path, info.Mode(), err)
			}
		})
	}
}

func TestCheckOfAnEarlierImage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := w.mustLaunch(t)
	st, err := store.Open(w.home)
	must(t, err)
	a := New(st, nil, w.events, time.Now) // there is nobody to ask
	must(t, a.Check(t.Context(), image))

	touch(t, image.Kernel) // right bytes, other identity: verified once, then known again
	must(t, a.Check(t.Context(), image))
	if object, err := st.Lookup(t.Context(), filepath.Base(filepath.Dir(image.Kernel))); err != nil || object.State != store.Ready {
		t.Errorf("after verifying: %v, %v", object.State, err)
	}

	rewrite(t, image.Layers[1].Path)
	if err := a.Check(t.Context(), image); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), image.Layers[1].Path) {
		t.Errorf("altered layer: %v", err)
	}
	must(t, os.RemoveAll(filepath.Dir(image.Kernel)))
	if err := a.Check(t.Context(), image); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("missing kernel: %v", err)
	}
	if err := a.Check(t.Context(), record.Image{Kernel: "/etc/passwd"}); err == nil {
		t.Error("a path outside the store was accepted")
	}
}

func TestManyLaunchesOneDownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() { _, errs[i] = w.launch(t.Context()) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	w.oneDownload(t)
	w.mustLaunch(t)
}

func TestCancelLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.server.Set(w.asset("base").Archive.File, faulty.Fault{Stop: faulty.Pause, After: 1000})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := w.launch(ctx); done <- err }()
	w.events.await(t, "start base")
	cancel()
	if err := <-done; fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("err = %v (%s)", err, fault.CodeOf(err))
	}
	if left := w.temps(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	w.server.Set(w.asset("base").Archive.File)
	w.mustLaunch(t)
	if left := w.partials(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestExpiredRunsWhatIsHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mustLaunch(t)
	later := time.Now().Add(48 * time.Hour)
	source := fetch.New(fetch.Options{})
	c, err := resolve.LoadCatalogue(t.Context(), source, w.url+"/manifest.json", resolve.Rules{
		Policy: trust.Policy{Roots: []trust.Root{{Keys: []string{w.made.PublicKey}, Threshold: 1}}, Development: true, Now: later},
	})
	must(t, err)
	row, _ := c.Find("claude-code", "amd64", "qemu")
	for _, home := range []struct {
		dir  string
		code fault.Code
	}{{w.home, ""}, {filepath.Join(t.TempDir(), "empty"), fault.Trust}} {
		st, err := store.Open(home.dir)
		must(t, err)
		plan, err := c.Plan(t.Context(), row, st)
		if err == nil {
			_, _, err = New(st, source.Mirrors(plan.Places, nil), event.Discard{}, time.Now).Run(t.Context(), plan, Options{})
		}
		if (err == nil) != (home.code == "") || err != nil && fault.CodeOf(err) != home.code {
			t.Errorf("%s: %v", home.dir, err)
		}
	}
}
