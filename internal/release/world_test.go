package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/unpack"
	"github.com/smolvm/smolvm/test/catalogue"
)

var (
	claude = Image{"claude-code", "amd64", "qemu"}
	codex  = Image{"codex", "amd64", "qemu"}
)

// published is one catalogue for all tests: they only read it, and packing it is
// the slow part. Its second preset shares the kernel and the base, and its layer
// shares a frame with the first one's.
var published = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	dir, err := os.MkdirTemp("", "smolvm-release-")
	if err != nil {
		return nil, err
	}
	c, err := catalogue.Make(context.Background(), dir, time.Now())
	if err != nil {
		return nil, err
	}
	data := catalogue.Disk(4)
	copy(data[unpack.FrameSize:], catalogue.Noise(9, 1000))
	layer, err := c.Add(context.Background(), "codex", data)
	if err != nil {
		return nil, err
	}
	row := c.Manifest.Rows[0]
	row.Preset, row.Layers = "codex", []manifest.Asset{row.Layers[0], layer}
	c.Manifest.Rows = append(c.Manifest.Rows, row)
	return c, c.Publish()
})

func TestMain(m *testing.M) {
	if role := os.Getenv("SMOLVM_TEST_LOAD"); role != "" {
		os.Exit(loadUntilKilled(role))
	}
	status := m.Run()
	if c, err := published(); err == nil {
		_ = os.RemoveAll(c.Dir)
	}
	os.Exit(status)
}

// home is a computer: a store and a memory.
type home struct {
	dir   string
	store *store.Store
	rules resolve.Rules
	log   *log
}

func newHome(t *testing.T) *home {
	t.Helper()
	return homeAt(t, filepath.Join(t.TempDir(), "home"))
}

func homeAt(t *testing.T, dir string) *home {
	t.Helper()
	h := &home{dir: dir, log: &log{}}
	var err error
	if h.store, err = store.Open(dir); err != nil {
		t.Fatal(err)
	}
	h.rules = rulesFor(publisher(t), dir, h.log)
	return h
}

func rulesFor(c *catalogue.Catalogue, dir string, sink event.Sink) resolve.Rules {
	return resolve.Rules{
		Policy:  trust.Policy{Roots: []trust.Root{{Keys: []string{c.PublicKey}, Threshold: 1}}, Development: true, Now: time.Now()},
		Memory:  trust.NewMemory(filepath.Join(dir, "trust"), time.Now),
		Version: "0.3.0", Sink: sink,
	}
}

func publisher(t testing.TB) *catalogue.Catalogue {
	t.Helper()
	c, err := published()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (h *home) options() Options { return Options{Sink: h.log, Now: time.Now} }

func (h *home) catalogue(t *testing.T, address string) resolve.Catalogue {
	t.Helper()
	c, err := resolve.LoadCatalogue(t.Context(), fetch.New(fetch.Options{}), address, h.rules)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pull puts images into the store, as a launch does.
func (h *home) pull(t *testing.T, c resolve.Catalogue, images ...Image) {
	t.Helper()
	rows, err := rowsOf(c, images)
	if err != nil {
		t.Fatal(err)
	}
	for _, asset := range assetsOf(rows) {
		h.pullAsset(t, filepath.Dir(c.Address), asset)
	}
}

func (h *home) pullAsset(t *testing.T, dir string, asset manifest.Asset) {
	t.Helper()
	claim, ready, err := h.store.Claim2(t.Context(), asset.Index.SHA256, nil)
	if err != nil || ready {
		check(t, err)
		return
	}
	raw, err := os.ReadFile(filepath.Join(dir, asset.Index.File))
	check(t, err)
	index, err := unpack.ParseIndex(raw)
	check(t, err)
	archive, err := os.Open(filepath.Join(dir, asset.Archive.File))
	check(t, err)
	defer archive.Close()
	file, err := claim.Partial()
	check(t, err)
	check(t, unpack.Expand(t.Context(), archive, index, file, nil))
	_, err = claim.Commit(t.Context(), store.Origin{Name: asset.Name, Archive: asset.Archive.Digest, Content: asset.Content}, raw)
	check(t, err)
	check(t, claim.Release())
}

// save gives the tar of images from a home that pulled them.
func save(t *testing.T, images ...Image) []byte {
	t.Helper()
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	h.pull(t, c, images...)
	var out bytes.Buffer
	if _, err := Save(t.Context(), h.store, c, images, &out, h.options()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// saved is the tar of two images, made once.
var savedOnce sync.Map

func saved(t *testing.T) []byte {
	t.Helper()
	if data, ok := savedOnce.Load("both"); ok {
		return data.([]byte) //nolint:forcetypeassert // stored below
	}
	data := save(t, claude, codex)
	savedOnce.Store("both", data)
	return data
}

func (h *home) load(ctx context.Context, src io.Reader) (Loaded, error) {
	return Load(ctx, h.store, src, LoadOptions{
		Options: h.options(), Rules: func(string) (resolve.Rules, error) { return h.rules, nil },
	})
}

// isEmpty fails when anything can be seen or launched.
func (h *home) isEmpty(t *testing.T) {
	t.Helper()
	images, err := h.store.Images()
	check(t, err)
	objects, err := h.store.Objects(t.Context())
	check(t, err)
	if len(images)+len(objects) > 0 {
		t.Errorf("visible: %v, %v", images, objects)
	}
	seen, err := h.rules.Memory.Seen(publisher(t).Address)
	check(t, err)
	if seen.Serial != 0 || seen.Last != nil {
		t.Errorf("remembered: serial %d", seen.Serial)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// log keeps what was said.
type log struct {
	mu     sync.Mutex
	events []event.Event
}

func (l *log) Emit(e event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out strings.Builder
	for _, e := range l.events {
		fmt.Fprintln(&out, e.Kind, e.Stage, e.Object, e.Text)
	}
	return out.String()
}
