package resolve

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aead.dev/minisign"
	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// mirror is a copy of a world's published folder as it is now, behind a server of
// its own.
type mirror struct {
	dir, url string
	server   *faulty.Server
}

func (w *world) mirror(t *testing.T) mirror {
	t.Helper()
	m := mirror{dir: t.TempDir()}
	must(t, os.CopyFS(m.dir, os.DirFS(w.made.Dir)))
	m.server = faulty.New(m.dir)
	var stop func()
	m.url, stop = m.server.Listen()
	t.Cleanup(stop)
	return m
}

// republish raises the serial.
func (w *world) republish(t *testing.T, serial int64) {
	t.Helper()
	w.made.Manifest.Serial = serial
	must(t, w.made.Publish())
}

func TestMirrorStandsIn(t *testing.T) {
	for name, change := range map[string]func(w *world){
		"dead":              func(w *world) { w.stop() },
		"manifest gone":     func(w *world) { w.server.Set("manifest.json", faulty.Fault{Status: 404}) },
		"broken":            func(w *world) { w.server.Set("manifest.json", faulty.Fault{Status: 500}) },
		"another's":         func(w *world) { w.server.Set("manifest.json", faulty.Fault{Body: []byte(`{"schema":1}`)}) },
		"a byte changed":    func(w *world) { w.server.Set("manifest.json", faulty.Fault{Flip: 200}) },
		"a login page":      func(w *world) { w.server.Set("manifest.json", faulty.Fault{Body: []byte("<html>login</html>")}) },
		"cut every time":    func(w *world) { w.server.Set("manifest.json", faulty.Fault{Stop: faulty.Cut, After: 100}) },
		"its older brother": func(w *world) {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if name == "its older brother" {
				w.rules.FloorSerial = 8
				w.republish(t, 8)
			}
			good, unused := w.mirror(t), w.mirror(t)
			if name == "its older brother" {
				w.republish(t, 7)
			}
			w.rules.Mirrors = []string{good.url, unused.url + "/"}
			change(w)
			c, err := w.load(t.Context())
			must(t, err)
			own := w.url + "/manifest.json"
			if c.Address != own || c.Document.Address != own || c.Remembered {
				t.Errorf("it is the catalogue %s, document %s", c.Address, c.Document.Address)
			}
			want := []string{good.url + "/manifest.json", unused.url + "/manifest.json", own} // the one that failed comes last
			if d := cmp.Diff(want, c.Places); d != "" {
				t.Error(d)
			}
			if told := w.told(); !strings.Contains(told, own) || !strings.Contains(told, "asking "+good.url) {
				t.Errorf("told %q", told)
			}
			if unused.server.Requests("manifest.json") > 0 {
				t.Error("the second mirror was asked although the first one was good")
			}
		})
	}
}

func TestMirrorsAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	m := w.mirror(t)
	w.rules.Mirrors = []string{m.url}
	c, err := w.load(t.Context())
	must(t, err)
	if d := cmp.Diff([]string{w.url + "/manifest.json", m.url + "/manifest.json"}, c.Places); d != "" || m.server.Requests("manifest.json") > 0 {
		t.Error(d)
	}
}

// The address is down; one mirror is behind, one was tampered with, the last is good.
func TestBadMirrorsAreNamedAndSkipped(t *testing.T) {
	w := newWorld(t)
	behind := w.mirror(t)
	w.republish(t, 8)
	_, err := w.load(t.Context()) // serial 8 was seen
	must(t, err)
	spoilt, unsigned, good := w.mirror(t), w.mirror(t), w.mirror(t)
	spoilt.server.Set("manifest.json", faulty.Fault{Flip: 300})
	for _, path := range must1(filepath.Glob(filepath.Join(unsigned.dir, "*.minisig"))) {
		must(t, os.Remove(path))
	}
	w.rules.Mirrors = []string{behind.url, spoilt.url, unsigned.url, good.url}
	w.stop()
	w.told()
	c, err := w.load(t.Context())
	if err != nil || c.Manifest.Serial != 8 || c.Remembered || c.Places[0] != good.url+"/manifest.json" {
		t.Fatalf("serial %d from %v, %v", c.Manifest.Serial, c.Places, err)
	}
	told := w.told()
	for place, why := range map[string]string{behind.url: "older than 8", spoilt.url: "no signature of a trusted key fits", unsigned.url: "not signed by any"} {
		if !strings.Contains(told, place) || !strings.Contains(told, why) {
			t.Errorf("%s (%s) is not in %q", place, why, told)
		}
	}
	// Without the good one: what was seen last is newer than what the mirrors have.
	w.rules.Mirrors = w.rules.Mirrors[:3]
	if c, err := w.load(t.Context()); err != nil || !c.Remembered || c.Manifest.Serial != 8 {
		t.Errorf("%+v, %v", c.Manifest.Serial, err)
	}
}

func must1(paths []string, err error) []string {
	if err != nil {
		panic(err)
	}
	return paths
}

func TestEveryPlaceFails(t *testing.T) {
	w := newWorld(t)
	one, two := w.mirror(t), w.mirror(t)
	w.server.Set("manifest.json", faulty.Fault{Status: 404})
	one.server.Set("manifest.json", faulty.Fault{Flip: 300})
	two.server.Set("manifest.json", faulty.Fault{Body: []byte("<html>login</html>")})
	w.rules.Mirrors = []string{one.url, two.url}
	_, err := w.load(t.Context())
	if fault.CodeOf(err) != fault.Trust || fault.HintOf(err) == "" {
		t.Errorf("%s, hint %q", fault.CodeOf(err), fault.HintOf(err))
	}
	for _, part := range []string{"none of its 3 places", w.url, "404", one.url, "no signature", two.url, "web page"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

// The mirrors that a manifest names are asked once that manifest was believed, and
// when its address is gone.
func TestMirrorsOfTheManifest(t *testing.T) {
	w := newWorld(t)
	m := w.mirror(t)
	w.made.Manifest.Mirrors = []string{m.url + "/", w.url}
	w.republish(t, 8)
	must(t, os.CopyFS(filepath.Join(m.dir, "new"), os.DirFS(w.made.Dir)))
	c, err := w.load(t.Context())
	must(t, err)
	if d := cmp.Diff([]string{w.url + "/manifest.json", m.url + "/manifest.json"}, c.Places); d != "" {
		t.Error(d)
	}
	must(t, os.RemoveAll(filepath.Join(m.dir, "manifest.json")))
	w.republish(t, 9)
	for _, path := range w.files(t, "manifest.json*") {
		must(t, os.WriteFile(filepath.Join(m.dir, filepath.Base(path)), mustRead(t, path), 0o644))
	}
	w.stop()
	if c, err := w.load(t.Context()); err != nil || c.Manifest.Serial != 9 || c.Remembered {
		t.Errorf("serial %d, %v", c.Manifest.Serial, err)
	}
	w.fresh(t)
	if _, err := w.load(t.Context()); err == nil {
		t.Error("a mirror that nobody named was asked")
	}
}

// A folder that is not there any more, such as a disk that was unplugged, is like
// no network.
func TestFolderIsGone(t *testing.T) {
	w := newWorld(t)
	load := func() (Catalogue, error) {
		return LoadCatalogue(t.Context(), quick(), w.made.Dir+"/manifest.json", w.rules)
	}
	_, err := load()
	must(t, err)
	must(t, os.Rename(w.made.Dir, w.made.Dir+".gone"))
	if c, err := load(); err != nil || !c.Remembered {
		t.Errorf("%v", err)
	}
	w.fresh(t)
	if _, err := load(); fault.CodeOf(err) != fault.NotFound {
		t.Errorf("never seen: %v", err)
	}
}

// The publisher replaces manifest and signature between our two requests.
func TestPublishedMeanwhile(t *testing.T) {
	w := newWorld(t)
	old := mustRead(t, w.made.Address)
	w.republish(t, 8)
	w.server.Set("manifest.json", faulty.Fault{Body: old, Times: 1})
	if c, err := w.load(t.Context()); err != nil || c.Manifest.Serial != 8 {
		t.Errorf("serial %d, %v", c.Manifest.Serial, err)
	}
}

// One byte of the manifest or of its signature, any bit: refused.
func TestFlippedBits(t *testing.T) {
	w := newWorld(t)
	c, err := w.load(t.Context())
	must(t, err)
	w.rules.Memory = nil
	refused := func(what string, i int, doc trust.Document) {
		if _, err := Check(doc, w.rules); err == nil {
			t.Errorf("byte %d of the %s changed: accepted", i, what)
		}
	}
	for i := range c.Document.Raw {
		doc := c.Document
		doc.Raw = bytes.Clone(doc.Raw)
		doc.Raw[i] ^= 1 << (i % 8)
		refused("manifest", i, doc)
	}
	id := c.Signers[0]
	right := c.Document.Signatures[id]
	lines := bytes.SplitAfter(right, []byte("\n"))
	for i := len(lines[0]); i < len(right); i++ {
		for bit := range 7 {
			doc := c.Document
			changed := bytes.Clone(right)
			changed[i] ^= 1 << bit
			if same(right, changed) {
				continue
			}
			doc.Signatures = map[string][]byte{id: changed}
			refused("signature", i, doc)
		}
	}
	if _, err := Check(c.Document, w.rules); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// same reports whether two texts are one signature: base64 has bits that mean
// nothing.
func same(a, b []byte) bool {
	var one, other minisign.Signature
	return one.UnmarshalText(a) == nil && other.UnmarshalText(b) == nil && one.String() == other.String()
}

// Parts of two releases of one publisher, put together by a third party: whatever
// is moved, nobody signed it.
func TestMixAndMatch(t *testing.T) {
	w := newWorld(t)
	old := w.made.Manifest
	signature := func() map[string][]byte {
		id := w.own(t).id
		return map[string][]byte{id: mustRead(t, trust.SignatureFile(w.made.Address, id))}
	}
	oldSignature := signature()
	kernel, err := w.made.Add(t.Context(), "kernel", catalogue.Noise(9, 5000))
	must(t, err)
	layer, err := w.made.Add(t.Context(), "claude-code", catalogue.Noise(8, 5000))
	must(t, err)
	for name, change := range map[string]func(c *Catalogue){
		"kernel of another release": func(c *Catalogue) { c.Manifest.Rows[0].Kernel.Image = kernel },
		"layer of another release":  func(c *Catalogue) { c.Manifest.Rows[0].Layers[1] = layer },
		"arch swapped":              func(c *Catalogue) { c.Manifest.Rows[0].Arch, c.Manifest.Rows[1].Arch = "arm64", "amd64" },
		"vmm changed":               func(c *Catalogue) { c.Manifest.Rows[0].VMM = "firecracker" },
		"serial raised":             func(c *Catalogue) { c.Manifest.Serial = 99 },
		"expiry postponed":          func(c *Catalogue) { c.Manifest.Expires = c.Manifest.Expires.AddDate(9, 0, 0) },
		"mirror added":              func(c *Catalogue) { c.Manifest.Mirrors = []string{"https://evil.example"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := Catalogue{Manifest: old}
			c.Manifest.Rows = append(c.Manifest.Rows[:0:0], old.Rows...)
			c.Manifest.Rows[0].Layers = append(old.Rows[0].Layers[:0:0], old.Rows[0].Layers...)
			change(&c)
			w.made.Manifest = c.Manifest
			must(t, w.made.Publish())
			raw := mustRead(t, w.made.Address)
			if _, err := Check(trust.Document{Address: w.made.Address, Raw: raw, Signatures: signature()}, w.rules); err != nil {
				t.Fatalf("signed by the publisher: %v", err)
			}
			if _, err := Check(trust.Document{Address: w.made.Address, Raw: raw, Signatures: oldSignature}, w.rules); fault.CodeOf(err) != fault.Trust {
				t.Errorf("with the signature of what it was: %v", err)
			}
		})
	}
}

// A manifest without end: no more of it is read than is allowed.
func TestGiganticManifest(t *testing.T) {
	var sent atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/manifest.json" {
			http.NotFound(out, r)
			return
		}
		piece := bytes.Repeat([]byte("["), 1<<20)
		for range 1 << 10 {
			n, err := out.Write(piece)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	w := newWorld(t)
	_, err := LoadCatalogue(t.Context(), quick(), server.URL+"/", w.rules)
	if fault.CodeOf(err) != fault.Network || !strings.Contains(err.Error(), "larger") || sent.Load() > 64<<20 {
		t.Errorf("%d MiB were sent; %v", sent.Load()>>20, err)
	}
}

// The memory is damaged, cannot be written, or cannot be read: no old manifest is
// taken for a new one as far as that can be known, and somebody is told.
func TestDamagedMemory(t *testing.T) {
	tests := map[string]struct {
		spoil  func(folder string) error
		serial int64 // the oldest that is accepted
		says   string
	}{
		"mark deleted":   {func(f string) error { return os.Remove(filepath.Join(f, "serial-9")) }, 9, "the mark of the newest serial seen is lost"},
		"mark lowered":   {func(f string) error { return os.Rename(filepath.Join(f, "serial-9"), filepath.Join(f, "serial-1")) }, 9, "the mark of the newest"},
		"mark spoilt":    {func(f string) error { return os.Rename(filepath.Join(f, "serial-9"), filepath.Join(f, "serial-9a")) }, 9, "is no serial"},
		"copy emptied":   {func(f string) error { return os.Truncate(filepath.Join(f, "last-9.json"), 0) }, 9, "cannot be read"},
		"copy deleted":   {func(f string) error { return os.Remove(filepath.Join(f, "last-9.json")) }, 9, ""},
		"read-only":      {func(f string) error { return os.Chmod(f, 0o500) }, 9, ""},
		"not readable":   {func(f string) error { return os.Chmod(f, 0) }, 7, "serials are checked against 7 only"},
		"a file instead": {func(f string) error { _ = os.RemoveAll(f); return os.WriteFile(f, nil, 0o600) }, 7, "serials are checked against 7 only"},
		"folder deleted": {os.RemoveAll, 7, ""},
		"all but a list": {func(f string) error {
			_ = os.RemoveAll(f)
			_ = os.MkdirAll(f, 0o755)
			return os.WriteFile(filepath.Join(f, "keys-1.json"), nil, 0o600)
		}, 7, "the newest serial seen is lost"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() == 0 && (name == "read-only" || name == "not readable") {
				t.Skip("root may read and write everything")
			}
			w := newWorld(t)
			w.rules.FloorSerial = 7
			w.republish(t, 9)
			_, err := w.load(t.Context())
			must(t, err)
			folder := w.rules.Memory.Folder(w.url + "/manifest.json")
			must(t, test.spoil(folder))
			t.Cleanup(func() { _ = os.Chmod(folder, 0o700) })
			w.told()
			w.republish(t, test.serial-1)
			if _, err := w.load(t.Context()); fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), "older than") {
				t.Errorf("serial %d: %v", test.serial-1, err)
			}
			if told := w.told(); !strings.Contains(told, test.says) {
				t.Errorf("told %q, want %q", told, test.says)
			}
			w.republish(t, test.serial)
			if _, err := w.load(t.Context()); err != nil {
				t.Errorf("serial %d: %v", test.serial, err)
			}
		})
	}
}

func TestReadOnlyMemoryIsTold(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "trust"), nil, 0o400)) // no folder can be made here
	w.rules.Memory = trust.NewMemory(filepath.Join(dir, "trust"), func() time.Time { return now })
	if _, err := w.load(t.Context()); err != nil {
		t.Error(err)
	}
	if told := w.told(); !strings.Contains(told, "could not be told from this one next time") {
		t.Errorf("told %q", told)
	}
}

// A manifest from the future means that the clock is behind; expiry then means
// nothing, and the user is told.
func TestClocks(t *testing.T) {
	for name, test := range map[string]struct {
		now     time.Time
		expired bool
		says    string
	}{
		"right":            {now, false, ""},
		"some hours off":   {now.Add(-20 * time.Hour), false, ""},
		"a year behind":    {now.AddDate(-1, 0, 0), false, "set the clock"},
		"at its beginning": {time.Unix(0, 0), false, "set the clock"},
		"a year ahead":     {now.AddDate(1, 0, 0), true, "what is here still starts, nothing new is downloaded"},
	} {
		w := newWorld(t)
		w.rules.Policy.Now = test.now
		c, err := w.load(t.Context())
		if err != nil || c.Expired != test.expired {
			t.Errorf("%s: expired %v, %v", name, c.Expired, err)
		}
		if told := w.told(); (told == "") != (test.says == "") || !strings.Contains(told, test.says) {
			t.Errorf("%s: told %q", name, told)
		}
	}
}
