package acquire

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/unpack"
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
	if os.Getenv(childURL) != "" { // a child has made nothing, and may be killed at any moment
		os.Exit(status)
	}
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
	runSize int64         // 0: as it is
	stall   time.Duration // 0: a second
	// want are the published bytes of the assets by name.
	want map[string][]byte
}

func newWorld(t *testing.T) *world {
	t.Helper()
	made, err := published()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{made: made, home: filepath.Join(t.TempDir(), "home"), events: &recorder{}, want: originals()}
	w.serve(t)
	return w
}

// serve puts the catalogue on a server of its own, which has seen no request.
func (w *world) serve(t *testing.T) {
	t.Helper()
	w.server = faulty.New(w.made.Dir)
	url, stop := w.server.Listen()
	t.Cleanup(stop)
	w.url = url
}

// newSmallWorld is one whose base has many small frames, in a catalogue of its
// own: 80 of them, every eighth empty.
func newSmallWorld(t *testing.T) *world {
	t.Helper()
	made, err := catalogue.Make(t.Context(), t.TempDir(), time.Now())
	must(t, err)
	w := &world{made: made, home: filepath.Join(t.TempDir(), "home"), events: &recorder{}, runSize: 300_000}
	w.serve(t)
	w.want = maps.Clone(originals())
	w.publish(t, "1.0.0", catalogue.SmallDisk(5, smallFrames))
	return w
}

const smallFrames = 80

// publish makes these bytes the base of a release.
func (w *world) publish(t *testing.T, release string, base []byte) {
	t.Helper()
	asset, err := w.made.AddSmall("base", base)
	must(t, err)
	w.want["base"] = base
	for i := range w.made.Manifest.Rows {
		w.made.Manifest.Rows[i].Layers = append([]manifest.Asset{asset}, w.made.Manifest.Rows[i].Layers[1:]...)
	}
	w.made.Manifest.Release = release
	w.made.Manifest.Serial++
	must(t, w.made.Publish())
}

// index is the frame index of an asset.
func (w *world) index(t *testing.T, name string) unpack.Index {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.made.Dir, w.asset(name).Index.File))
	must(t, err)
	index, err := unpack.ParseIndex(raw)
	must(t, err)
	return index
}

// impatient is a source that does not wait before it tries again.
func impatient(stall time.Duration) *fetch.Source {
	return fetch.New(fetch.Options{
		Stall: cmp.Or(stall, time.Second), Jitter: func() float64 { return 0 },
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
	source := impatient(w.stall)
	plan, err := w.plan(ctx, source, st)
	if err != nil {
		return record.Image{}, err
	}
	places := append(plan.Places, w.mirrors...)
	image, lease, err := w.acquirer(st, source.Mirrors(places, w.events)).Run(ctx, plan, o)
	if err != nil {
		return record.Image{}, err
	}
	return image, lease.Release()
}

func (w *world) acquirer(st *store.Store, places Places) *Acquirer {
	a := New(st, places, w.events, time.Now)
	if w.runSize > 0 {
		a.runSize = w.runSize
	}
	return a
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
var originals = sync.OnceValue(func() map[string][]byte {
	return map[string][]byte{
		"kernel": catalogue.Noise(1, 200_000), "modules": catalogue.Noise(2, 5_000),
		"base": catalogue.Disk(3), "claude-code": catalogue.Disk(4),
	}
})

// checkBytes compares what would boot with what was published.
func (w *world) checkBytes(t *testing.T, image record.Image) {
	t.Helper()
	paths := map[string]string{"kernel": image.Kernel, "modules": image.Modules}
	for _, layer := range image.Layers {
		paths[layer.Name] = layer.Path
	}
	for name, path := range paths {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, w.want[name]) {
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

// temps are the files that are work in progress.
func (w *world) temps(t *testing.T) []string { return w.files(t, "store/tmp", "store/leases") }

// partials are the files of what was begun.
func (w *world) partials(t *testing.T) []string { return w.files(t, "store/partial") }

func (w *world) files(t *testing.T, folders ...string) []string {
	t.Helper()
	var names []string
	for _, folder := range folders {
		names = append(names, filesIn(t, filepath.Join(w.home, folder))...)
	}
	return names
}

func filesIn(t *testing.T, folder string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
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

// oneDownload checks that each archive went over the wire once at most.
func (w *world) oneDownload(t *testing.T) {
	t.Helper()
	for _, name := range []string{"kernel", "modules", "base", "claude-code"} {
		asset := w.asset(name)
		if n := w.server.Sent(asset.Archive.File); n > asset.Archive.Size {
			t.Errorf("%s: %d bytes were sent, the archive has %d", name, n, asset.Archive.Size)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, data, 0o644))
}
