package release

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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

// frameSize of the test images: the smallest that an index may have, so that many
// frames are little data.
const frameSize = 64 << 10

// published is one catalogue for all tests, who only read it. Its second preset
// shares the kernel and the base with the first, and a frame of its own layer.
var published = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	dir, err := os.MkdirTemp("", "smolvm-release-")
	if err != nil {
		return nil, err
	}
	return publish(dir)
})

// contents are the published bytes by the names they have in the store's views.
var contents = sync.OnceValue(func() map[string][]byte {
	return map[string][]byte{
		"kernel": catalogue.Noise(1, 90_000), "modules.cpio": catalogue.Noise(2, 5_000),
		"base.ext4": disk(3), "claude-code.ext4": disk(4), "codex.ext4": append(disk(4), catalogue.Noise(5, 7_000)...),
	}
})

// disk is noise, a hole within a frame, an empty frame, noise, and a short end.
func disk(seed uint64) []byte {
	data := make([]byte, 3*frameSize+8192)
	copy(data[8192:], catalogue.Noise(seed, 30_000))
	copy(data[2*frameSize:], catalogue.Noise(seed+100, frameSize))
	copy(data[3*frameSize+4096:], catalogue.Noise(seed+200, 4096))
	return data
}

func publish(dir string) (*catalogue.Catalogue, error) {
	private, public, err := trust.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &catalogue.Catalogue{Dir: dir, Address: filepath.Join(dir, "manifest.json"), PrivateKey: private, PublicKey: public}
	assets := map[string]manifest.Asset{}
	for file, data := range contents() {
		name := strings.TrimSuffix(strings.TrimSuffix(file, ".ext4"), ".cpio")
		if assets[name], err = addAsset(dir, name, data); err != nil {
			return nil, err
		}
	}
	modules := assets["modules"]
	row := manifest.Row{
		Preset: "claude-code", Arch: "amd64", VMM: "qemu", Agent: manifest.Agent{Name: "Claude Code", Version: "1.2.3"},
		Kernel: manifest.Kernel{Version: "6.12.0-test", Image: assets["kernel"], Modules: &modules},
		Layers: []manifest.Asset{assets["base"], assets["claude-code"]},
	}
	sbom, err := addBlob(dir, "sbom", ".spdx.json", []byte(`{"spdxVersion":"SPDX-2.3"}`))
	if err != nil {
		return nil, err
	}
	build, err := addBlob(dir, "build", ".json", []byte(`[]`))
	if err != nil {
		return nil, err
	}
	row.SBOM, row.Build = &sbom, &build
	other := row
	other.Preset, other.Layers = "codex", []manifest.Asset{assets["base"], assets["codex"]}
	now := time.Now().UTC().Truncate(time.Second)
	c.Manifest = manifest.Manifest{
		Schema: manifest.Schema, Release: "1.0.0", Serial: 7, MinVersion: "0.1.0",
		Created: now.Add(-12 * time.Hour), Expires: now.Add(12 * time.Hour), Rows: []manifest.Row{row, other},
	}
	return c, c.Publish()
}

// addAsset publishes bytes in small frames.
func addAsset(dir, name string, data []byte) (manifest.Asset, error) {
	ix := unpack.Index{Schema: 1, FrameSize: frameSize, Size: int64(len(data))}
	var archive bytes.Buffer
	for piece := range slices.Chunk(data, frameSize) {
		one, _, _, err := unpack.Compress(context.Background(), bytes.NewReader(piece), int64(len(piece)), &archive)
		if err != nil {
			return manifest.Asset{}, err
		}
		frame := one.Frames[0]
		frame.Offset = int64(archive.Len()) - frame.Length
		ix.Frames = append(ix.Frames, frame)
	}
	raw, err := ix.Encode()
	if err != nil {
		return manifest.Asset{}, err
	}
	asset := manifest.Asset{Name: name, Content: manifest.Digest{SHA256: digest(data), Size: int64(len(data))}}
	if asset.Archive, err = addBlob(dir, name, ".zst", archive.Bytes()); err != nil {
		return asset, err
	}
	asset.Index, err = addBlob(dir, name, ".json", raw)
	return asset, err
}

// addBlob publishes bytes as they are.
func addBlob(dir, name, extension string, data []byte) (manifest.Blob, error) {
	sum := digest(data)
	blob := manifest.Blob{File: manifest.FileName(name, sum, extension), Digest: manifest.Digest{SHA256: sum, Size: int64(len(data))}}
	return blob, os.WriteFile(filepath.Join(dir, blob.File), data, 0o644)
}

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
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

func newHome(t testing.TB) *home {
	t.Helper()
	return homeAt(t, filepath.Join(t.TempDir(), "home"))
}

func homeAt(t testing.TB, dir string) *home {
	t.Helper()
	h := &home{dir: dir, log: &log{}}
	var err error
	h.store, err = store.Open(dir)
	check(t, err)
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

func (h *home) catalogue(t testing.TB, address string) resolve.Catalogue {
	t.Helper()
	c, err := resolve.LoadCatalogue(t.Context(), fetch.New(fetch.Options{}), address, h.rules)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pull puts images into the store, as a launch does.
func (h *home) pull(t testing.TB, c resolve.Catalogue, images ...Image) {
	t.Helper()
	rows, err := rowsOf(c, images)
	if err != nil {
		t.Fatal(err)
	}
	for _, asset := range assetsOf(rows) {
		h.pullAsset(t, filepath.Dir(c.Address), asset)
	}
}

func (h *home) pullAsset(t testing.TB, dir string, asset manifest.Asset) {
	t.Helper()
	claim, ready, err := h.store.Claim(t.Context(), asset.Index.SHA256, nil)
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
	check(t, claim.Discard()) // of a load that was cut
	file, err := claim.Partial()
	check(t, err)
	check(t, unpack.Expand(t.Context(), archive, index, file, nil))
	_, err = claim.Commit(t.Context(), store.Origin{Name: asset.Name, Archive: asset.Archive.Digest, Content: asset.Content}, raw)
	check(t, err)
	check(t, claim.Release())
}

// save gives the tar of images from a home that pulled them.
func save(t testing.TB, images ...Image) []byte {
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

func saved(t testing.TB) []byte {
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
func (h *home) isEmpty(t testing.TB) {
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
