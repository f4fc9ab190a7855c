package acquire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// published is one catalogue for all tests of this file: they only read it, and
// packing it is the slow part.
var published = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	dir, err := os.MkdirTemp("", "smolvm-acquire-")
	if err != nil {
		return nil, err
	}
	return catalogue.Make(context.Background(), dir, time.Now())
})

func TestMain(m *testing.M) {
	status := m.Run()
	if c, err := published(); err == nil {
		_ = os.RemoveAll(c.Dir)
	}
	os.Exit(status)
}

// world is a faulty server of the catalogue and an empty home.
type world struct {
	made   *catalogue.Catalogue
	server *faulty.Server
	url    string
	home   string
	events *recorder
	// mirrors are asked after the catalogue's own places.
	mirrors []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	made, err := published()
	if err != nil {
		t.Fatal(err)
	}
	server := faulty.New(made.Dir)
	url, stop := server.Listen()
	t.Cleanup(stop)
	return &world{made: made, server: server, url: url, home: filepath.Join(t.TempDir(), "home"), events: &recorder{}}
}

// impatient is a source that does not wait before it tries again.
func impatient() *fetch.Source {
	return fetch.New(fetch.Options{
		Stall: 2 * time.Second, Jitter: func() float64 { return 0 },
		Wait: func(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) },
	})
}

// launch does what a launch does up to the paths it boots from.
func (w *world) launch(ctx context.Context) (record.Image, error) {
	return w.launchWith(ctx, Options{})
}

func (w *world) launchWith(ctx context.Context, o Options) (record.Image, error) {
	st, err := store.Open(w.home)
	if err != nil {
		return record.Image{}, err
	}
	source := impatient()
	plan, err := w.plan(ctx, source, st)
	if err != nil {
		return record.Image{}, err
	}
	places := append(plan.Places, w.mirrors...)
	image, lease, err := New(st, source.Mirrors(places, w.events), w.events, time.Now).Run(ctx, plan, o)
	if err != nil {
		return record.Image{}, err
	}
	return image, lease.Release()
}

func (w *world) plan(ctx context.Context, source *fetch.Source, st *store.Store) (resolve.Plan, error) {
	c, err := resolve.LoadCatalogue(ctx, source, w.url+"/", resolve.Rules{
		Policy: trust.Policy{Roots: []trust.Root{{Keys: []string{w.made.PublicKey}, Threshold: 1}}, Development: true, Now: time.Now()},
	})
	if err != nil {
		return resolve.Plan{}, err
	}
	row, ok := c.Find("claude-code", "amd64", "qemu")
	if !ok {
		return resolve.Plan{}, errors.New("no row")
	}
	return c.Plan(ctx, row, st)
}

func (w *world) mustLaunch(t *testing.T) record.Image {
	t.Helper()
	image, err := w.launch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.checkBytes(t, image)
	return image
}

// originals are the published bytes, made once.
var originals = sync.OnceValue(func() [4][]byte {
	return [4][]byte{catalogue.Noise(1, 200_000), catalogue.Noise(2, 5_000), catalogue.Disk(3), catalogue.Disk(4)}
})

// checkBytes compares what would boot with what was published.
func (w *world) checkBytes(t *testing.T, image record.Image) {
	t.Helper()
	for i, path := range []string{image.Kernel, image.Modules, image.Layers[0].Path, image.Layers[1].Path} {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, originals()[i]) {
			t.Errorf("%s does not hold what was published", path)
		}
	}
}

func (w *world) asset(name string) manifest.Asset {
	row := w.made.Manifest.Rows[0]
	for _, asset := range append([]manifest.Asset{row.Kernel.Image, *row.Kernel.Modules}, row.Layers...) {
		if asset.Name == name {
			return asset
		}
	}
	panic("no asset " + name)
}

// temps are the files under store/tmp.
func (w *world) temps(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join(w.home, "store", "tmp"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

type recorder struct {
	also io.Writer // gets every event on a line, if not nil

	mu  sync.Mutex
	all []event.Event
}

func (r *recorder) Emit(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
	if r.also != nil {
		fmt.Fprintln(r.also, e.Kind, e.Object, e.Bytes, e.Text)
	}
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	for _, e := range r.all {
		fmt.Fprintln(&out, e.Kind, e.Object, e.Bytes, e.Text)
	}
	return out.String()
}

func TestSecondLaunchFetchesNothing(t *testing.T) {
	w := newWorld(t)
	image := w.mustLaunch(t)
	if image.KernelVersion != "6.12.0-test" || image.StandIn != "nobody" || image.Release != "1.0.0" {
		t.Errorf("image = %+v", image)
	}
	w.server.Set("base", faulty.Fault{})
	before := w.server.Requests(w.asset("base").Archive.File)
	again := w.mustLaunch(t)
	if again.Kernel != image.Kernel || w.server.Requests(w.asset("base").Archive.File) != before || before != 1 {
		t.Errorf("second launch: %+v after %d requests", again, before)
	}
	for _, name := range []string{"kernel", "modules", "base", "claude-code"} {
		if done := fmt.Sprintf("done %s %d ", name, w.asset(name).Archive.Size); strings.Count(w.events.text(), done) != 1 {
			t.Errorf("no single event %q in\n%s", done, w.events.text())
		}
	}
}

func TestFilesAreReadOnlyAndShown(t *testing.T) {
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

// Every fault on the way ends in one clear error and leaves nothing behind, and
// the next launch works.
func TestFaultsOnTheWay(t *testing.T) {
	w := newWorld(t)
	base, kernel := w.asset("base"), w.asset("kernel")
	tests := []struct {
		name, file string
		fault      faulty.Fault
		code       fault.Code
		says       string
	}{
		{"cut at 0", base.Archive.File, faulty.Fault{Stop: faulty.Cut}, fault.Network, "cut"},
		{"cut at 1", base.Archive.File, faulty.Fault{Stop: faulty.Cut, After: 1}, fault.Network, "1 of "},
		{"cut in a frame", base.Archive.File, faulty.Fault{Stop: faulty.Cut, After: 1000}, fault.Network, "cut"},
		{"cut before the last byte", base.Archive.File, faulty.Fault{Stop: faulty.Cut, After: base.Archive.Size - 1}, fault.Network, "cut"},
		{"short, announced", base.Archive.File, faulty.Fault{Stop: faulty.Shorten, After: 1000}, fault.Network, "has 1000 bytes"},
		{"short, clean end", base.Archive.File, faulty.Fault{Stop: faulty.Shorten, After: 1000, Chunked: true}, fault.Network, "ends after 1000"},
		{"hangs", base.Archive.File, faulty.Fault{Stop: faulty.Hang, After: 1000}, fault.Network, "less than"},
		{"gone", base.Archive.File, faulty.Fault{Status: 404, Body: []byte("no")}, fault.Network, "404"},
		{"busy", base.Archive.File, faulty.Fault{Status: 503, Body: []byte("no")}, fault.Network, "503"},
		{"web page", base.Archive.File, faulty.Fault{Body: []byte("<html>"), Header: map[string][]string{"Content-Type": {"text/html; charset=utf-8"}}}, fault.Network, "web page"},
		{"packed again", base.Archive.File, faulty.Fault{Header: map[string][]string{"Content-Encoding": {"gzip"}}}, fault.Network, "gzip"},
		{"first byte wrong", base.Archive.File, faulty.Fault{Flip: 1}, fault.Trust, "base"},
		{"middle byte wrong", base.Archive.File, faulty.Fault{Flip: base.Archive.Size / 2}, fault.Trust, "digest mismatch"},
		{"last byte wrong", base.Archive.File, faulty.Fault{Flip: base.Archive.Size}, fault.Trust, w.url},
		{"bytes after the end", base.Archive.File, faulty.Fault{Extra: []byte("x"), Chunked: true}, fault.Trust, "after the end"},
		{"other file", base.Archive.File, faulty.Fault{Body: make([]byte, base.Archive.Size)}, fault.Trust, "digest mismatch"},
		{"index byte wrong", base.Index.File, faulty.Fault{Flip: 40}, fault.Trust, "frame index"},
		{"index endless", base.Index.File, faulty.Fault{Body: make([]byte, 1<<20), Chunked: true}, fault.Network, "larger"},
		{"index gone", base.Index.File, faulty.Fault{Status: 404, Body: []byte("no")}, fault.Network, "404"},
		{"kernel byte wrong", kernel.Archive.File, faulty.Fault{Flip: 77}, fault.Trust, "kernel"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w.server.Set(test.file, test.fault)
			defer w.server.Set(test.file, faulty.Fault{})
			w.home = filepath.Join(t.TempDir(), "home")
			_, err := w.launch(t.Context())
			if err == nil {
				t.Fatal("the image was accepted")
			}
			if fault.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.says) || fault.HintOf(err) == "" {
				t.Errorf("err = %v (%s, hint %q), want %s with %q", err, fault.CodeOf(err), fault.HintOf(err), test.code, test.says)
			}
			if left := w.temps(t); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			w.server.Set(test.file, faulty.Fault{})
			w.mustLaunch(t)
		})
	}
}

// The disk that boots is altered while everything that describes it stays.
func TestAlteredFilesNeverBoot(t *testing.T) {
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
	w := newWorld(t)
	image := w.mustLaunch(t)
	st, err := store.Open(w.home)
	must(t, err)
	a := New(st, nil, w.events, time.Now)
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
	for _, name := range []string{"kernel", "modules", "base", "claude-code"} {
		if n := w.server.Requests(w.asset(name).Archive.File); n != 1 {
			t.Errorf("%s was downloaded %d times", name, n)
		}
	}
	w.mustLaunch(t)
}

func TestCancelLeavesNothing(t *testing.T) {
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
	w.server.Set(w.asset("base").Archive.File, faulty.Fault{})
	w.mustLaunch(t)
}

func TestExpiredRunsWhatIsHere(t *testing.T) {
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

// await blocks until an event with that text was emitted.
func (r *recorder) await(t *testing.T, text string) {
	t.Helper()
	await(t, text, func() bool { return strings.Contains(r.text(), text) })
}

func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("never came: " + what)
		}
	}
}

func sibling(path, name string) string { return filepath.Join(filepath.Dir(path), name) }

func touch(t *testing.T, path string) {
	t.Helper()
	now := time.Now()
	must(t, os.Chtimes(path, now, now))
}

// rewrite changes one byte in place.
func rewrite(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chmod(path, 0o644))
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)/3] ^= 1
	must(t, os.WriteFile(path, data, 0o644))
}

// replaceFolder puts a link to a folder of somebody else in a folder's place.
func replaceFolder(t *testing.T, dir string) {
	t.Helper()
	other := filepath.Join(t.TempDir(), "elsewhere")
	must(t, os.Rename(dir, other))
	must(t, os.Symlink(other, dir))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
