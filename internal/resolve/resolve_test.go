package resolve

import (
	"context"
	"encoding/json"
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
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// world is a catalogue behind a faulty server, and what a user believes.
type world struct {
	made   *catalogue.Catalogue
	server *faulty.Server
	stop   func()
	url    string
	rules  Rules
	events *events
}

// template is a catalogue that every world copies: making one compresses 32 MiB.
var template *catalogue.Catalogue

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "resolve-test-")
		if err == nil {
			defer os.RemoveAll(dir)
			template, err = catalogue.Make(context.Background(), dir, now)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func newWorld(t *testing.T) *world {
	t.Helper()
	copied := *template
	made := &copied
	made.Dir = t.TempDir()
	made.Address = filepath.Join(made.Dir, filepath.Base(template.Address))
	must(t, os.CopyFS(made.Dir, os.DirFS(template.Dir)))
	w := &world{made: made, server: faulty.New(made.Dir), events: &events{}}
	w.url, w.stop = w.server.Listen()
	t.Cleanup(w.stop)
	w.rules = Rules{
		Policy:  trust.Policy{Roots: []trust.Root{{Keys: []string{made.PublicKey}, Threshold: 1}}, Now: now},
		Memory:  trust.NewMemory(t.TempDir(), func() time.Time { return now }),
		Version: "0.3.0", Sink: w.events,
	}
	return w
}

func (w *world) load(ctx context.Context) (Catalogue, error) {
	return LoadCatalogue(ctx, quick(), w.url+"/manifest.json", w.rules)
}

type events struct {
	mu   sync.Mutex
	text strings.Builder
}

func (e *events) Emit(ev event.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Fprintln(&e.text, ev.Kind, ev.Text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLoadByEveryAddress(t *testing.T) {
	w := newWorld(t)
	t.Chdir(filepath.Dir(w.made.Dir))
	for _, address := range []string{
		w.url + "/manifest.json", w.url + "/", w.made.Address, w.made.Dir, "file://" + w.made.Address, filepath.Base(w.made.Dir),
	} {
		c, err := LoadCatalogue(t.Context(), fetch.New(fetch.Options{}), address, w.rules)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if len(c.Signers) != 1 || c.Expired || c.Remembered || c.Manifest.Serial != 7 {
			t.Errorf("%s: %+v", address, c)
		}
		if !strings.Contains(c.Address, "://") && !filepath.IsAbs(c.Address) {
			t.Errorf("%s: address %s depends on the current folder", address, c.Address)
		}
	}
}

func TestRefusals(t *testing.T) {
	stranger, err := catalogue.Make(t.Context(), t.TempDir(), now)
	must(t, err)
	const file = "manifest.json"
	tests := map[string]struct {
		change func(w *world)
		code   fault.Code
		says   string
	}{
		"unsigned": {func(w *world) {
			id, _ := trust.KeyID(w.made.PublicKey)
			w.server.Set(trust.SignatureFile(file, id), faulty.Fault{Status: 404})
		}, fault.Trust, "not signed"},
		"signed by a stranger": {func(w *world) { w.rules.Policy.Roots[0].Keys = []string{stranger.PublicKey} }, fault.Trust, "not signed by any trusted key"},
		"no trusted keys":      {func(w *world) { w.rules.Policy.Roots = nil }, fault.Trust, "no key is trusted"},
		"threshold":            {func(w *world) { w.rules.Policy.Roots[0].Threshold = 2 }, fault.Trust, "2 signatures are needed"},
		"a byte changed":       {func(w *world) { w.server.Set(file, faulty.Fault{Flip: 100}) }, fault.Trust, "no signature"},
		"signature changed": {func(w *world) {
			id, _ := trust.KeyID(w.made.PublicKey)
			w.server.Set(trust.SignatureFile(file, id), faulty.Fault{Flip: 60})
		}, fault.Trust, "no signature"},
		"web page":          {func(w *world) { w.server.Set(file, faulty.Fault{Body: []byte("<html>hello</html>")}) }, fault.Network, "web page"},
		"gone":              {func(w *world) { w.server.Set(file, faulty.Fault{Status: 404}) }, fault.Network, "404"},
		"cut":               {func(w *world) { w.server.Set(file, faulty.Fault{Stop: faulty.Cut, After: 100}) }, fault.Network, "cut"},
		"huge":              {func(w *world) { w.server.Set(file, faulty.Fault{Body: make([]byte, 5<<20)}) }, fault.Network, "larger"},
		"signed nonsense":   {func(w *world) { _ = w.made.PublishRaw([]byte("{}")) }, fault.Trust, "schema"},
		"signed unknown":    {func(w *world) { _ = w.made.PublishRaw([]byte(`{"schema":1,"x":2}`)) }, fault.Trust, "unknown field"},
		"later schema":      {func(w *world) { _ = w.made.PublishRaw([]byte(`{"schema":2,"x":2}`)) }, fault.Trust, "schema 2"},
		"needs a newer one": {func(w *world) { w.rules.Version = "0.0.9" }, fault.Trust, "needs smolvm 0.1.0"},
		"below the floor":   {func(w *world) { w.rules.FloorSerial = 8 }, fault.Trust, "older than 8"},
		"ftp":               {func(w *world) { w.url = "ftp://host" }, fault.Usage, "not supported"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			url := w.url
			test.change(w)
			_, err := w.load(t.Context())
			if err == nil || fault.CodeOf(err) != test.code || !strings.Contains(err.Error(), test.says) || fault.HintOf(err) == "" {
				t.Errorf("err = %v (%s, hint %q), want %s with %q", err, fault.CodeOf(err), fault.HintOf(err), test.code, test.says)
			}
			if err != nil && w.url == url && name != "no trusted keys" && !strings.Contains(err.Error(), url) {
				t.Errorf("the address is not named: %v", err)
			}
		})
	}
}

func TestNoAddress(t *testing.T) {
	_, err := LoadCatalogue(t.Context(), fetch.New(fetch.Options{}), "", Rules{})
	if fault.CodeOf(err) != fault.NotFound || !strings.Contains(fault.HintOf(err), "SMOLVM_MANIFEST") {
		t.Errorf("err = %v, hint %q", err, fault.HintOf(err))
	}
}

func TestRollbackIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := w.load(t.Context())
	must(t, err)
	w.made.Manifest.Serial = 6
	must(t, w.made.Publish())
	if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "older than 7") {
		t.Errorf("err = %v", err)
	}
	w.made.Manifest.Serial = 8
	must(t, w.made.Publish())
	if _, err := w.load(t.Context()); err != nil {
		t.Error(err)
	}
}

// No network: the last manifest believed stands in, and says so. A server that
// answers wrongly is not "no network".
func TestOffline(t *testing.T) {
	w := newWorld(t)
	_, err := w.load(t.Context())
	must(t, err)
	w.server.Set("manifest.json", faulty.Fault{Status: 404})
	if _, err := w.load(t.Context()); err == nil {
		t.Error("a missing manifest was replaced by an old one")
	}
	w.stop()
	c, err := w.load(t.Context())
	if err != nil || !c.Remembered || c.Manifest.Serial != 7 {
		t.Fatalf("%+v, %v", c.Remembered, err)
	}
	if !strings.Contains(w.events.text.String(), "warning") {
		t.Error("nobody was told")
	}
	w.rules.Policy.Roots[0].Keys = []string{mustKey(t)}
	if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust {
		t.Errorf("a remembered manifest of a key not trusted any more: %v", err)
	}
	w.rules.Memory = trust.NewMemory(t.TempDir(), time.Now)
	w.rules.Policy.Roots[0].Keys = []string{w.made.PublicKey}
	if _, err := w.load(t.Context()); !errors.Is(err, fetch.ErrUnreachable) {
		t.Errorf("nothing remembered: %v", err)
	}
}

func mustKey(t *testing.T) string {
	t.Helper()
	_, public, err := trust.NewKey(nil)
	must(t, err)
	return public
}

func TestMemoryThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o600))
	w.rules.Memory = trust.NewMemory(path, time.Now)
	if _, err := w.load(t.Context()); err != nil {
		t.Errorf("err = %v", err)
	}
	if !strings.Contains(w.events.text.String(), "warning") {
		t.Error("nobody was told")
	}
	w.rules.FloorSerial = 8
	if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust {
		t.Errorf("below the floor: %v", err)
	}
}

func TestPlantedMemoryIsRefused(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "trust")
	must(t, os.Symlink(t.TempDir(), path))
	w.rules.Memory = trust.NewMemory(path, time.Now)
	if _, err := w.load(t.Context()); !errors.Is(err, trust.ErrPlanted) || fault.HintOf(err) == "" {
		t.Errorf("err = %v", err)
	}
}

// here says that the named assets are in the store.
type here map[string]store.State

func (h here) Lookup(_ context.Context, key string) (store.Object, error) {
	if state, ok := h[key]; ok {
		return store.Object{Key: key, State: state}, nil
	}
	return store.Object{Key: key, State: store.Absent}, nil
}

func TestPlan(t *testing.T) {
	w := newWorld(t)
	c, err := w.load(t.Context())
	must(t, err)
	row, ok := c.Find("claude-code", "arm64", "qemu")
	if !ok {
		t.Fatal("no row")
	}
	if _, ok := c.Find("claude-code", "arm64", "firecracker"); ok {
		t.Error("a row of another VMM was found")
	}
	stock := here{row.Layers[0].Index.SHA256: store.Ready, row.Kernel.Image.Index.SHA256: store.Doubtful}
	plan, err := c.Plan(t.Context(), row, stock)
	must(t, err)
	var roles []Role
	for _, step := range plan.Steps {
		roles = append(roles, step.Role)
		if file := fetch.Beside(plan.Places[0], step.Asset.Archive.File); !strings.HasPrefix(file, w.url+"/"+step.Asset.Name+"-") {
			t.Errorf("archive at %s", file)
		}
	}
	if fmt.Sprint(roles) != "[kernel modules layer layer]" {
		t.Errorf("roles %v", roles)
	}
	want := row.Kernel.Modules.Archive.Size + row.Layers[1].Archive.Size
	if plan.Fetch != want {
		t.Errorf("Fetch = %d, want %d", plan.Fetch, want)
	}
	for _, part := range []string{"release 1.0.0", "serial 7", "base             is here", "verify every byte", fmt.Sprintf("download %d bytes", want)} {
		if !strings.Contains(plan.String(), part) {
			t.Errorf("%q is not in\n%s", part, plan)
		}
	}
	raw, err := json.Marshal(plan)
	must(t, err)
	var back Plan
	if err := json.Unmarshal(raw, &back); err != nil || back.Fetch != plan.Fetch || len(back.Steps) != 4 {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestExpiredPlansNoFetch(t *testing.T) {
	w := newWorld(t)
	w.rules.Policy.Now = now.AddDate(1, 0, 0)
	c, err := w.load(t.Context())
	must(t, err)
	if !c.Expired {
		t.Fatal("not expired")
	}
	row := w.made.Manifest.Rows[0]
	if _, err := c.Plan(t.Context(), row, here{}); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "2026-06-02") {
		t.Errorf("err = %v", err)
	}
	all := here{}
	for _, asset := range append([]manifest.Asset{row.Kernel.Image, *row.Kernel.Modules}, row.Layers...) {
		all[asset.Index.SHA256] = store.Ready
	}
	if _, err := c.Plan(t.Context(), row, all); err != nil {
		t.Errorf("everything is here: %v", err)
	}
}

// A clock far behind does not make an expired manifest of a new program fresh.
func TestClockBehind(t *testing.T) {
	w := newWorld(t)
	w.rules.Policy.Now = now.AddDate(-1, 0, 0)
	w.rules.Policy.Floor = now.AddDate(0, 1, 0)
	c, err := w.load(t.Context())
	must(t, err)
	if !c.Expired {
		t.Error("not expired")
	}
}
