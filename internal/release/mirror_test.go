package release

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// hasty does not wait before it tries again.
func hasty() *fetch.Source {
	return fetch.New(fetch.Options{
		Stall: 2 * time.Second, Jitter: func() float64 { return 0 },
		Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	})
}

// site is the catalogue behind a server that does what it is told.
func site(t *testing.T, dir string) (*faulty.Server, string) {
	t.Helper()
	server := faulty.New(dir)
	address, stop := server.Listen()
	t.Cleanup(stop)
	return server, address
}

func (h *home) mirror(ctx context.Context, c resolve.Catalogue, dest string) (Mirrored, error) {
	return Mirror(ctx, c, dest, MirrorOptions{Options: h.options(), Source: hasty(), Rules: h.rules})
}

// isMirror fails unless a folder holds exactly what was published.
func isMirror(t *testing.T, dir, published string) {
	t.Helper()
	entries, err := os.ReadDir(published)
	check(t, err)
	want := []string{lockFile}
	for _, e := range entries {
		want = append(want, e.Name())
		a, err := os.ReadFile(filepath.Join(published, e.Name()))
		check(t, err)
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v)", e.Name(), err)
		}
	}
	slices.Sort(want)
	only(t, dir, want...)
}

func base(t *testing.T) manifest.Asset {
	t.Helper()
	return publisher(t).Manifest.Rows[0].Layers[0]
}

func TestMirrorToAFolder(t *testing.T) {
	h := newHome(t)
	_, address := site(t, publisher(t).Dir)
	c := h.catalogue(t, address+"/")
	dir := filepath.Join(t.TempDir(), "new", "a mirror")
	m, err := h.mirror(t.Context(), c, dir)
	check(t, err)
	if m.Address != filepath.Join(dir, "manifest.json") || m.Copied != m.Bytes || m.Files != 14 || m.Release != "1.0.0" {
		t.Errorf("%+v", m)
	}
	isMirror(t, dir, publisher(t).Dir)
	for _, kind := range []event.Kind{event.Start, event.Done} {
		if !h.log.has(event.Mirror, kind) {
			t.Errorf("no %s in %s", kind, h.log.text())
		}
	}
	to := newHome(t)
	here := to.catalogue(t, dir)
	to.pull(t, here, claude)
}

func TestMirrorAgainCopiesNothing(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	c := h.catalogue(t, address+"/")
	dir := t.TempDir()
	_, err := h.mirror(t.Context(), c, dir)
	check(t, err)
	m, err := h.mirror(t.Context(), c, dir)
	if err != nil || m.Copied != 0 || server.Requests(base(t).Archive.File) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	isMirror(t, dir, publisher(t).Dir)
}

// TestMirrorIsResumed: the connection is cut for good in the middle; the next run
// asks only for what is missing.
func TestMirrorIsResumed(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	file := base(t).Archive.File
	first := base(t).Archive.Size * 3 / 4
	server.Set(file, faulty.Fault{Stop: faulty.Cut, After: first, Times: 1}, faulty.Fault{Status: 500})
	c := h.catalogue(t, address+"/")
	dir := t.TempDir()
	_, err := h.mirror(t.Context(), c, dir)
	if fault.CodeOf(err) != fault.Network || !strings.Contains(err.Error(), file) {
		t.Fatalf("%v", err)
	}
	for _, name := range []string{file, manifestFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	server.Set(file)
	kept := partSize(dir, base(t).Archive)
	_, err = h.mirror(t.Context(), c, dir)
	check(t, err)
	isMirror(t, dir, publisher(t).Dir)
	if asked := lastSpan(server, file); asked != kept {
		t.Errorf("asked from byte %d on, %d were there", asked, kept)
	}
}

// lastSpan is where the last request for a file began.
func lastSpan(server *faulty.Server, file string) int64 {
	log := server.Log(file)
	return log[len(log)-1].Span.From
}

// A connection that is cut, and cut again, is continued within one run.
func TestMirrorGoesOnAfterCuts(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	file := base(t).Archive.File
	server.Set(file,
		faulty.Fault{Stop: faulty.Cut, After: 0, Times: 1}, faulty.Fault{Stop: faulty.Cut, After: 1, Times: 1},
		faulty.Fault{Stop: faulty.Cut, After: 33_000, Times: 1}, faulty.Fault{Stop: faulty.Cut, After: 40_000, Times: 1})
	dir := t.TempDir()
	_, err := h.mirror(t.Context(), h.catalogue(t, address+"/"), dir)
	check(t, err)
	isMirror(t, dir, publisher(t).Dir)
	last := int64(0)
	for _, request := range server.Log(file) {
		if request.Span.From < last {
			t.Errorf("asked from byte %d on after byte %d", request.Span.From, last)
		}
		last = request.Span.From
	}
}

// TestBadPart: what an earlier run left is not believed.
func TestBadPart(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(publisher(t).Dir, base(t).Archive.File))
	check(t, err)
	altered := slices.Clone(good)
	altered[len(altered)/2] ^= 1
	for name, plant := range map[string]func(path string) error{
		"altered": func(path string) error { return os.WriteFile(path, altered, 0o600) },
		"longer":  func(path string) error { return os.WriteFile(path, append(slices.Clone(good), good...), 0o600) },
		"noise":   func(path string) error { return os.WriteFile(path, catalogue.Noise(1, 300_000), 0o600) },
		"link":    func(path string) error { return os.Symlink("/etc/passwd", path) },
		"folder":  func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			_, address := site(t, publisher(t).Dir)
			dir := t.TempDir()
			check(t, plant(partName(dir, base(t).Archive.File)))
			_, err := h.mirror(t.Context(), h.catalogue(t, address+"/"), dir)
			check(t, err)
			isMirror(t, dir, publisher(t).Dir)
		})
	}
}

// A file of other bytes under a published name is not ours to replace.
func TestMirrorReplacesNothing(t *testing.T) {
	h := newHome(t)
	_, address := site(t, publisher(t).Dir)
	c := h.catalogue(t, address+"/")
	for _, file := range []string{base(t).Archive.File, base(t).Index.File} {
		dir := t.TempDir()
		check(t, os.WriteFile(filepath.Join(dir, file), []byte("mine"), 0o600))
		_, err := h.mirror(t.Context(), c, dir)
		if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), file) {
			t.Errorf("%v", err)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, file)); string(data) != "mine" {
			t.Error("replaced")
		}
		if _, err := os.Lstat(filepath.Join(dir, manifestFile)); err == nil {
			t.Error("a manifest was written all the same")
		}
	}
}

// TestMirrorKeepsToOneCatalogue: older, different, or somebody else's.
func TestMirrorKeepsToOneCatalogue(t *testing.T) {
	stranger, err := catalogue.Make(t.Context(), t.TempDir(), time.Now())
	check(t, err)
	h := newHome(t)
	c := h.catalogue(t, publisher(t).Address)
	again := *publisher(t)
	sign := func(dir string, serial int64, release string) {
		next := again
		next.Dir, next.Address = dir, filepath.Join(dir, "manifest.json")
		next.Manifest.Serial, next.Manifest.Release = serial, release
		check(t, next.Publish())
	}
	tests := map[string]struct {
		there func(dir string)
		says  string // empty: replaced
	}{
		"older":      {func(dir string) { sign(dir, 6, "0.9.0") }, ""},
		"same":       {func(dir string) { sign(dir, 7, "1.0.0") }, ""},
		"newer":      {func(dir string) { sign(dir, 8, "1.0.1") }, "newer release 1.0.1"},
		"twin":       {func(dir string) { sign(dir, 7, "1.0.1") }, "same serial"},
		"stranger's": {func(dir string) { check(t, os.CopyFS(dir, os.DirFS(stranger.Dir))) }, "not believed"},
		"junk":       {func(dir string) { check(t, os.WriteFile(filepath.Join(dir, "manifest.json"), []byte("{}"), 0o600)) }, "not believed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tt.there(dir)
			before, err := os.ReadFile(filepath.Join(dir, manifestFile))
			check(t, err)
			_, err = h.mirror(t.Context(), c, dir)
			after, _ := os.ReadFile(filepath.Join(dir, manifestFile))
			if tt.says == "" {
				check(t, err)
				isMirror(t, dir, publisher(t).Dir)
				return
			}
			if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), tt.says) || !bytes.Equal(before, after) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestWrongBytesComeFromTheNextPlace: the place is named, the copy is right.
func TestWrongBytesComeFromTheNextPlace(t *testing.T) {
	for name, wrong := range map[string]faulty.Fault{
		"flip": {Flip: 40_000}, "extra": {Extra: []byte("x")}, "short": {Stop: faulty.Shorten, After: 50_000},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			bad, first := site(t, publisher(t).Dir)
			_, second := site(t, publisher(t).Dir)
			bad.Set(base(t).Archive.File, wrong)
			c := h.catalogue(t, first+"/")
			c.Places = append(c.Places, second+"/manifest.json")
			dir := t.TempDir()
			_, err := h.mirror(t.Context(), c, dir)
			check(t, err)
			isMirror(t, dir, publisher(t).Dir)
			if !strings.Contains(h.log.text(), first) {
				t.Errorf("nobody says who was wrong: %s", h.log.text())
			}
		})
	}
}

func TestWrongBytesEverywhere(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	server.Set(base(t).Archive.File, faulty.Fault{Flip: 40_000})
	dir := t.TempDir()
	_, err := h.mirror(t.Context(), h.catalogue(t, address+"/"), dir)
	if fault.CodeOf(err) != fault.Trust || !strings.Contains(err.Error(), address) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, base(t).Archive.File)); err == nil {
		t.Error("it got its name")
	}
}

// Key lists travel with the release, and lead from the first key to the one that
// signs today.
func TestMirrorCarriesKeyLists(t *testing.T) {
	dir := t.TempDir()
	check(t, os.CopyFS(dir, os.DirFS(publisher(t).Dir)))
	public, private, err := newKey()
	check(t, err)
	list, err := trust.EncodeKeyList(trust.KeyList{
		Schema: trust.KeyListSchema, Version: 1, Threshold: 1, Created: time.Now().UTC().Truncate(time.Second), Keys: []string{oneLine(public)},
	})
	check(t, err)
	signInto(t, dir, trust.KeyListFile(1), list, publisher(t).PrivateKey, private)
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile))
	check(t, err)
	signInto(t, dir, manifestFile, raw, private)

	h := newHome(t)
	_, address := site(t, dir)
	c := h.catalogue(t, address+"/")
	if c.Root.Version != 1 || len(c.Document.Keys) != 1 {
		t.Fatalf("root %+v, %d lists", c.Root, len(c.Document.Keys))
	}
	mirror := t.TempDir()
	_, err = h.mirror(t.Context(), c, mirror)
	check(t, err)
	to := newHome(t)
	there := to.catalogue(t, mirror)
	if there.Root.Version != 1 {
		t.Errorf("root of the mirror %+v", there.Root)
	}
	// And so they do with a tar.
	to.pull(t, there, claude)
	var out bytes.Buffer
	_, err = Save(t.Context(), to.store, there, []Image{claude}, &out, to.options())
	check(t, err)
	last := newHome(t)
	_, err = last.load(t.Context(), &out)
	check(t, err)
	check(t, os.RemoveAll(mirror))
	if offline := last.catalogue(t, there.Address); offline.Root.Version != 1 || !offline.Remembered {
		t.Errorf("offline %+v", offline.Root)
	}
}

func oneLine(public string) string {
	lines := strings.Split(strings.TrimSpace(public), "\n")
	return lines[len(lines)-1]
}

func signInto(t *testing.T, dir, name string, raw []byte, private ...string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
	for _, key := range private {
		signature, id, err := trust.Sign(raw, key)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, trust.SignatureFile(name, id)), signature, 0o600))
	}
}

func TestExpiredReleaseIsNotMirrored(t *testing.T) {
	h := newHome(t)
	h.rules.Policy.Now = time.Now().Add(48 * time.Hour)
	c := h.catalogue(t, publisher(t).Address)
	if _, err := h.mirror(t.Context(), c, t.TempDir()); fault.CodeOf(err) != fault.Trust {
		t.Errorf("%v", err)
	}
}

// Two runs on one folder: the second says so at once.
func TestMirrorIsAlone(t *testing.T) {
	h := newHome(t)
	dir := t.TempDir()
	lock, err := openPart(filepath.Join(dir, lockFile))
	check(t, err)
	defer lock.Close()
	if _, err := h.mirror(t.Context(), h.catalogue(t, publisher(t).Address), dir); fault.CodeOf(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
}

func TestCancelledMirrorIsContinued(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	file := base(t).Archive.File
	server.Set(file, faulty.Fault{Stop: faulty.Hang, After: base(t).Archive.Size - 10, Times: 1})
	c := h.catalogue(t, address+"/")
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := h.mirror(ctx, c, dir); err == nil {
		t.Fatal("it ended")
	}
	if kept := partSize(dir, base(t).Archive); kept < 90_000 {
		t.Errorf("only %d bytes were kept", kept)
	}
	_, err := h.mirror(t.Context(), c, dir)
	check(t, err)
	isMirror(t, dir, publisher(t).Dir)
	if asked := lastSpan(server, file); asked < 90_000 {
		t.Errorf("asked from byte %d on", asked)
	}
}

// TestManifestComesLast: whichever file cannot be had, there is no manifest, and
// the next run completes the rest.
func TestManifestComesLast(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	c := h.catalogue(t, address+"/")
	dir := t.TempDir()
	assets, err := everyAsset(c.Manifest)
	check(t, err)
	documents, err := everyDocument(c.Manifest)
	check(t, err)
	if len(documents) != 2 {
		t.Errorf("documents: %v", documents)
	}
	var files []manifest.Blob
	for _, asset := range assets {
		files = append(files, asset.Index, asset.Archive)
	}
	for _, blob := range append(files, documents...) {
		file := blob.File
		server.Set(file, faulty.Fault{Status: 404})
		if _, err := h.mirror(t.Context(), c, dir); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%v", err)
		}
		server.Set(file)
		if found, _ := filepath.Glob(filepath.Join(dir, "manifest*")); len(found) > 0 {
			t.Errorf("without %s: %v", file, found)
		}
	}
	_, err = h.mirror(t.Context(), c, dir)
	check(t, err)
	isMirror(t, dir, publisher(t).Dir)
}
