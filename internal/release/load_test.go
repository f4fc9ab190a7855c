package release

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/faulty"
)

// isComplete fails unless the image is shown with the published bytes and
// everything of it can be used as it is.
func (h *home) isComplete(t testing.TB, c resolve.Catalogue) {
	t.Helper()
	row, _ := c.Find(claude.Preset, claude.Arch, claude.VMM)
	image := h.launch(t, c, row, nil)
	for path, name := range map[string]string{
		image.Kernel: "kernel", image.Modules: "modules.cpio", image.Layers[0].Path: "base.ext4", image.Layers[1].Path: "claude-code.ext4",
	} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, contents()[name]) {
			t.Errorf("%s would boot and is not what was published (%v)", path, err)
		}
	}
	for _, name := range []string{"kernel", "modules.cpio", "base.ext4", "claude-code.ext4"} {
		want := contents()[name]
		got, err := os.ReadFile(filepath.Join(h.dir, "images", "1.0.0", claude.String(), name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s does not hold what was published (%v)", name, err)
		}
	}
}

// launch does what a launch does, up to the paths it boots from. Without places it
// has no network.
func (h *home) launch(t testing.TB, c resolve.Catalogue, row manifest.Row, places acquire.Places) record.Image {
	t.Helper()
	plan, err := c.Plan(t.Context(), row, h.store)
	check(t, err)
	image, lease, err := acquire.New(h.store, places, h.log, time.Now).Run(t.Context(), plan, acquire.Options{})
	check(t, err)
	check(t, lease.Release())
	return image
}

// TestLoadedImageLaunchesOffline goes the whole way: published, downloaded,
// saved, carried to a computer that never had a network, resolved there.
func TestLoadedImageLaunchesOffline(t *testing.T) {
	address, stop := faulty.New(publisher(t).Dir).Listen()
	from := newHome(t)
	c := from.catalogue(t, address+"/")
	local := c
	local.Address = publisher(t).Address
	from.pull(t, local, claude)
	var out bytes.Buffer
	_, err := Save(t.Context(), from.store, c, []Image{claude}, &out, from.options())
	check(t, err)
	stop()

	to := newHome(t)
	l, err := to.load(t.Context(), &out)
	check(t, err)
	if l.Address != address+"/manifest.json" || !slices.Equal(l.Added, []string{"kernel", "modules", "base", "claude-code"}) || len(l.Signers) != 1 {
		t.Errorf("%+v", l)
	}
	offline := to.catalogue(t, address+"/")
	if !offline.Remembered || offline.Manifest.Serial != 7 {
		t.Errorf("resolved %+v", offline)
	}
	to.isComplete(t, offline)
	empty(t, filepath.Join(to.dir, "store", "partial"))
	empty(t, filepath.Join(to.dir, "store", "leases"))
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%s holds %v, %v", dir, entries, err)
	}
}

func TestLoadUnderAnotherAddress(t *testing.T) {
	h := newHome(t)
	const address = "https://example.org/images/"
	var asked string
	l, err := Load(t.Context(), h.store, bytes.NewReader(saved(t)), LoadOptions{
		Options: h.options(), Address: address,
		Rules: func(address string) (resolve.Rules, error) { asked = address; return h.rules, nil },
	})
	check(t, err)
	if l.Address != address+"manifest.json" || asked != l.Address {
		t.Errorf("%+v, rules of %s", l, asked)
	}
	if seen, err := h.rules.Memory.Seen(l.Address); err != nil || seen.Last == nil || seen.Serial != 7 {
		t.Errorf("%+v, %v", seen, err)
	}
}

// The address in a tar is nobody's word: what was seen there stays, unless a person
// names the address.
func TestTarOfAnotherCatalogue(t *testing.T) {
	for named, want := range map[string]int64{"": 3, publisher(t).Address: 7} {
		h := newHome(t)
		before := trust.Document{Address: publisher(t).Address, Raw: []byte("{}")}
		check(t, h.rules.Memory.Remember(before, 3))
		_, err := Load(t.Context(), h.store, bytes.NewReader(saved(t)), LoadOptions{
			Options: h.options(), Address: named, Rules: func(string) (resolve.Rules, error) { return h.rules, nil },
		})
		check(t, err)
		seen, err := h.rules.Memory.Seen(before.Address)
		if err != nil || seen.Serial != want || bytes.Equal(seen.Last.Raw, before.Raw) != (named == "") {
			t.Errorf("named %q: %+v, %v", named, seen, err)
		}
		if told := strings.Contains(h.log.text(), "--manifest "+before.Address); told != (named == "") {
			t.Errorf("named %q: told %q", named, h.log.text())
		}
	}
}

func TestLoadBringsOnlyWhatIsMissing(t *testing.T) {
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	h.pull(t, c, claude)
	l, err := h.load(t.Context(), bytes.NewReader(saved(t)))
	check(t, err)
	if !slices.Equal(l.Added, []string{"codex"}) {
		t.Errorf("added %v", l.Added)
	}
	h.isComplete(t, c)
	l, err = h.load(t.Context(), bytes.NewReader(saved(t)))
	if err != nil || len(l.Added) > 0 {
		t.Errorf("again: %+v, %v", l, err)
	}
	bad := slices.Clone(saved(t))
	bad[len(bad)-2000] ^= 1
	if _, err := h.load(t.Context(), bytes.NewReader(bad)); err == nil {
		t.Error("wrong bytes are fine when nothing is needed")
	}
}

// An object that was touched is made anew from the tar.
func TestLoadRepairs(t *testing.T) {
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	h.pull(t, c, claude)
	object, err := h.store.Lookup(t.Context(), c.Manifest.Rows[0].Layers[0].Index.SHA256)
	check(t, err)
	check(t, os.Chmod(object.Path, 0o600))
	check(t, flip(object.Path, 10_000))
	l, err := h.load(t.Context(), bytes.NewReader(saved(t)))
	if err != nil || !slices.Equal(l.Added, []string{"base", "codex"}) {
		t.Errorf("%+v, %v", l, err)
	}
	h.isComplete(t, c)
}

func TestManyLoadAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	var mu sync.Mutex
	var group sync.WaitGroup
	added := map[string]int{}
	for range 4 {
		h := homeAt(t, dir)
		group.Go(func() {
			l, err := h.load(t.Context(), bytes.NewReader(saved(t)))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, name := range l.Added {
				added[name]++
			}
		})
	}
	group.Wait()
	if len(added) != 5 || added["base"] != 1 {
		t.Errorf("added %v", added)
	}
	h := homeAt(t, dir)
	h.isComplete(t, h.catalogue(t, publisher(t).Address))
}

// Whom to believe is decided as by a launch, before any frame is read.
func TestLoadBelievesLikeALaunch(t *testing.T) {
	stranger, _, err := newKey()
	check(t, err)
	tests := map[string]struct {
		change func(h *home)
		says   string
	}{
		"stranger": {func(h *home) { h.rules.Policy.Roots[0].Keys = []string{stranger} }, "trusted key"},
		"no keys":  {func(h *home) { h.rules.Policy.Roots = nil }, "no key is trusted"},
		"threshold": {func(h *home) {
			h.rules.Policy.Roots[0].Keys = append(h.rules.Policy.Roots[0].Keys, stranger)
			h.rules.Policy.Roots[0].Threshold = 2
		}, "2 signatures"},
		"expired":    {func(h *home) { h.rules.Policy.Now = time.Now().Add(48 * time.Hour) }, "expired"},
		"old smolvm": {func(h *home) { h.rules.Version = "0.0.1" }, "needs smolvm"},
		"rollback": {func(h *home) {
			check(t, h.rules.Memory.Remember(trust.Document{Address: publisher(t).Address, Raw: []byte("{}")}, 8))
		}, "serial 7 is older than 8"},
		"no rules": {nil, "stop"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			rules := func(string) (resolve.Rules, error) { return h.rules, nil }
			if tt.change != nil {
				tt.change(h)
			} else {
				rules = func(string) (resolve.Rules, error) { return resolve.Rules{}, fault.New(fault.Trust, "", "stop") }
			}
			_, err := Load(t.Context(), h.store, bytes.NewReader(saved(t)), LoadOptions{Options: h.options(), Rules: rules})
			if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v", err)
			}
			if images, err := h.store.Images(); err != nil || len(images) > 0 {
				t.Errorf("visible: %v, %v", images, err)
			}
		})
	}
}

// What an expired manifest names may be shown again when it is here.
func TestExpiredManifestOfWhatIsHere(t *testing.T) {
	h := newHome(t)
	h.pull(t, h.catalogue(t, publisher(t).Address), claude, codex)
	h.rules.Policy.Now = time.Now().Add(48 * time.Hour)
	if _, err := h.load(t.Context(), bytes.NewReader(saved(t))); err != nil {
		t.Error(err)
	}
	if !strings.Contains(h.log.text(), "expired") {
		t.Error("nothing was said")
	}
}

// A pipe on which nothing comes does not keep a cancelled load.
func TestCancelledLoadEnds(t *testing.T) {
	r, w, err := os.Pipe()
	check(t, err)
	defer w.Close()
	defer r.Close()
	_, err = w.Write(saved(t)[:5000])
	check(t, err)
	h := newHome(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := h.load(ctx, r); err == nil || time.Since(begun) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
	h.isEmpty(t)
}

// A wrong frame ends the load though nothing more comes through the pipe.
func TestWrongFrameEndsTheWait(t *testing.T) {
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	items := entries(t, saved(t))
	last := slices.IndexFunc(items, isFrame)
	items[last].data = slices.Clone(items[last].data)
	items[last].data[0] ^= 1
	data := packed(items[:last+1])
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(data[:len(data)-2*blockSize])
		written <- err
	}()
	h := newHome(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := h.load(ctx, r); fault.CodeOf(err) != fault.Trust || ctx.Err() != nil {
		t.Errorf("err = %v, %v", err, ctx.Err())
	}
	check(t, <-written)
	check(t, w.Close())
	h.isEmpty(t)
}

// A load that was cut continues with the frames it has, and so does a download.
func TestCutLoadIsContinued(t *testing.T) {
	h := newHome(t)
	whole := saved(t)
	if _, err := h.load(t.Context(), bytes.NewReader(whole[:len(whole)-20_000])); err == nil {
		t.Fatal("a cut tar was loaded")
	}
	h.isEmpty(t)
	if kept := allocated(t, filepath.Join(h.dir, "store", "partial")); kept < 100_000 {
		t.Errorf("only %d bytes were kept", kept)
	}
	server, address := site(t, publisher(t).Dir)
	c := h.catalogue(t, address+"/")
	row, _ := c.Find(claude.Preset, claude.Arch, claude.VMM)
	h.launch(t, c, row, hasty().Mirrors(c.Places, h.log))
	if sent := server.Sent(base(t).Archive.File); sent > 0 {
		t.Errorf("%d bytes of what was there were downloaded", sent)
	}
	l, err := h.load(t.Context(), bytes.NewReader(whole))
	if err != nil || !slices.Equal(l.Added, []string{"codex"}) {
		t.Errorf("%+v, %v", l, err)
	}
	h.isComplete(t, c)
}

func allocated(t *testing.T, dir string) (n int64) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			data, failed := os.ReadFile(path)
			check(t, failed)
			n += int64(len(bytes.ReplaceAll(data, []byte{0}, nil)))
		}
		return err
	}))
	return n
}

func TestSavedByAnOfflineHome(t *testing.T) {
	h := newHome(t)
	_, err := h.load(t.Context(), bytes.NewReader(saved(t)))
	check(t, err)
	c, err := resolve.LoadCatalogue(t.Context(), fetch.New(fetch.Options{}), publisher(t).Address, h.rules)
	check(t, err)
	var out bytes.Buffer
	_, err = Save(t.Context(), h.store, c, []Image{claude, codex}, &out, h.options())
	if err != nil || !bytes.Equal(out.Bytes(), saved(t)) {
		t.Errorf("%d bytes instead of %d, %v", out.Len(), len(saved(t)), err)
	}
}
