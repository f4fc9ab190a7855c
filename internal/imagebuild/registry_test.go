package imagebuild

import (
	"context"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch/oci"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// shelf is a registry in memory with one tag.
type shelf struct {
	blobs map[string][]byte // by digest: they stay when the tag moves
	names map[string]string // of the tag: digests by name
	sent  []string          // names, in the order of the last push
}

func newShelf() *shelf { return &shelf{blobs: map[string][]byte{}} }

func (s *shelf) Names(context.Context, string) ([]string, error) {
	if s.names == nil {
		return nil, fs.ErrNotExist
	}
	return slices.Sorted(maps.Keys(s.names)), nil
}

func (s *shelf) Get(_ context.Context, address string, _ int64) ([]byte, error) {
	_, name, _ := strings.Cut(address, "#")
	return s.blobs[s.names[name]], nil
}

func (s *shelf) Push(_ context.Context, _ string, files []oci.File, _ func(string, int64, int64)) error {
	names := map[string]string{}
	s.sent = nil
	for _, f := range files {
		names[f.Name] = f.SHA256
		if s.blobs[f.SHA256] != nil {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		if s.blobs[f.SHA256], err = io.ReadAll(r); err != nil {
			return err
		}
		s.sent = append(s.sent, f.Name)
		r.Close()
	}
	s.names = names
	return nil
}

// unpacked writes what the tag names into a folder.
func (s *shelf) unpacked(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, digest := range s.names {
		if err := os.WriteFile(filepath.Join(dir, name), s.blobs[digest], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const tag = "oci://registry.test/smolvm:stable"

func TestRegistryHoldsWholeReleases(t *testing.T) {
	p, images, now := published(t)
	s := newShelf()
	if _, err := p.PublishTo(t.Context(), s, tag, images[:1]); err != nil {
		t.Fatal(err)
	}
	if last := s.sent[len(s.sent)-1]; last != ManifestFile {
		t.Errorf("the last file is %s", last)
	}
	first := p
	first.Dir = s.unpacked(t)
	before := verified(t, first, 1, p.Signers...)
	for _, blob := range namedBy(before) {
		if s.names[blob.File] != blob.SHA256 {
			t.Errorf("%s is not there", blob.File)
		}
	}

	// A row of another VMM is added from elsewhere: the first one's files are not here.
	*now = now.Add(time.Hour)
	p.VMMs = []string{"firecracker"}
	m, err := p.PublishTo(t.Context(), s, tag, images[:1])
	if err != nil || len(m.Rows) != 2*len(before.Rows) || m.Serial <= before.Serial {
		t.Fatalf("%d rows, serial %d: %v", len(m.Rows), m.Serial, err)
	}
	if len(s.sent) != 2 {
		t.Errorf("sent again: %v", s.sent)
	}
	first.Dir = s.unpacked(t)
	verified(t, first, 1, p.Signers...)

	// The same again changes nothing.
	if again, err := p.PublishTo(t.Context(), s, tag, images[:1]); err != nil || again.Serial != m.Serial || len(s.sent) != 0 {
		t.Errorf("serial %d after %d, sent %v: %v", again.Serial, m.Serial, s.sent, err)
	}
}

func TestRegistryKeepsKeyLists(t *testing.T) {
	p, images, now := published(t)
	if _, err := p.Publish(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	next := newSigner(t)
	r := Rotation{Dir: p.Dir, Signers: append(slices.Clone(p.Signers), next), Keys: []string{next.Public}, Threshold: 1, Now: p.Now, Sink: p.Sink}
	if _, err := r.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newShelf()
	s.names = map[string]string{}
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(p.Dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		s.names[e.Name()], s.blobs[e.Name()] = e.Name(), raw
	}
	lists := func() (found []string) {
		for name := range s.names {
			if strings.HasPrefix(name, "keys-1.json") {
				found = append(found, name)
			}
		}
		return found
	}
	want := len(lists())
	*now = now.Add(time.Hour)
	p.Release = "2"
	// The old key alone is not in the list any more.
	if _, err := p.PublishTo(t.Context(), s, tag, images); fault.CodeOf(err) != fault.Usage || !strings.Contains(err.Error(), tag) {
		t.Errorf("the replaced key signs: %v", err)
	}
	old := p
	p.Signers = []Signer{next}
	if _, err := p.PublishTo(t.Context(), s, tag, images); err != nil {
		t.Fatal(err)
	}
	if got := lists(); len(got) != want || want < 2 {
		t.Errorf("key lists %v, there were %d", got, want)
	}
	p.Dir = s.unpacked(t)
	verified(t, p, 1, old.Signers...) // by way of the key list
}

func TestRegistryRefuses(t *testing.T) {
	p, images, _ := published(t)
	s := newShelf()
	if _, err := p.PublishTo(t.Context(), s, tag, images); err != nil {
		t.Fatal(err)
	}
	there := maps.Clone(s.names)
	check := func(why string, p Publication, code fault.Code) {
		t.Helper()
		_, err := p.PublishTo(t.Context(), s, tag, images)
		if fault.CodeOf(err) != code || !strings.Contains(err.Error(), tag) && code != fault.NotFound {
			t.Errorf("%s: %v", why, err)
		}
		if !maps.Equal(s.names, there) {
			t.Fatalf("%s: the tag has moved", why)
		}
	}
	other := p
	other.Signers = []Signer{newSigner(t)}
	check("somebody else's manifest", other, fault.Conflict)
	none := p
	none.Signers = nil
	check("no key", none, fault.Usage)
	noise := p
	noise.Signers = []Signer{{Private: "no key", Public: p.Signers[0].Public}}
	if _, err := noise.PublishTo(t.Context(), s, tag, images); fault.CodeOf(err) != fault.Usage {
		t.Errorf("a file that is no key: %v", err)
	}
	there = map[string]string{"layer.tar": "x"}
	s.names = maps.Clone(there)
	check("another kind of artifact", p, fault.Conflict)

	// Rows whose files the registry has lost are not published again as if they were there.
	s = newShelf()
	if _, err := p.PublishTo(t.Context(), s, tag, images); err != nil {
		t.Fatal(err)
	}
	there = maps.Clone(s.names)
	lost := images[0].Layer.Assets[0].Archive
	delete(s.blobs, lost.SHA256)
	p.Release = "2"
	_, err := p.PublishTo(t.Context(), s, tag, nil)
	if fault.CodeOf(err) != fault.NotFound || !strings.Contains(err.Error(), lost.File) || !maps.Equal(s.names, there) {
		t.Errorf("a lost file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(images[0].Layer.Dir, lost.File), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.PublishTo(t.Context(), s, tag, images); fault.CodeOf(err) != fault.Storage || !maps.Equal(s.names, there) {
		t.Errorf("a damaged build cache: %v", err)
	}
}

func TestSignedFilesAreKnownByName(t *testing.T) {
	for name, want := range map[string]int64{
		"manifest.json": manifest.MaxSize, "manifest.json.AB12.minisig": trust.MaxSignature, "keys-2.json": trust.MaxKeyList,
		"keys-2.json.AB12.minisig": trust.MaxSignature, "keys-02.json": 0, "base-x.zst": 0, "x/../manifest.json": 0,
		"../manifest.json.AB12.minisig": 0, "keys-2.json/../../x": 0, "a.minisig": 0,
	} {
		if got := signedLimit(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

// TestUnreadableManifestStays: what it names and which serial was the last would
// be lost.
func TestUnreadableManifestStays(t *testing.T) {
	p, images, _ := published(t)
	path := filepath.Join(p.Dir, ManifestFile)
	for _, raw := range []string{"", "{", `{"schema":2}`} {
		if err := os.MkdirAll(p.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(raw), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Publish(t.Context(), images); fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", raw, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != raw {
			t.Errorf("%q became %q", raw, got)
		}
	}
}
