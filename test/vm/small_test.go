//go:build vm

package vm_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/unpack"
	"github.com/smolvm/smolvm/test/catalogue"
)

// site is a small published release that takes a fraction of a second to pull:
// nothing in it boots.
type site struct {
	*mirror
	made *catalogue.Catalogue
	key  string
}

// smallFrames is how many frames the largest layer has, each with so much data.
const smallFrames, smallNoise = 16, 256 << 10

// smallCatalogue is made once for all cases; each has a copy.
var smallCatalogue = sync.OnceValues(func() (*catalogue.Catalogue, error) {
	made, err := catalogue.Make(context.Background(), theWorld.small, time.Now())
	if err != nil {
		return nil, err
	}
	return made, addLayer(context.Background(), made, 10)
})

// addLayer adds a layer of many frames, made of a seed, in place of an earlier one.
func addLayer(ctx context.Context, made *catalogue.Catalogue, seed uint64) error {
	data := make([]byte, smallFrames*unpack.FrameSize)
	for i := range smallFrames {
		copy(data[i*unpack.FrameSize+8192:], catalogue.Noise(seed+uint64(i)<<32, smallNoise))
	}
	layer, err := made.Add(ctx, "big", data)
	if err != nil {
		return err
	}
	made.Manifest.Rows = slices.Clone(made.Manifest.Rows)
	for i := range made.Manifest.Rows {
		layers := slices.Clone(made.Manifest.Rows[i].Layers)
		made.Manifest.Rows[i].Layers = append(layers[:min(2, len(layers))], layer)
	}
	return made.Publish()
}

func newSite(t *testing.T) *site {
	t.Helper()
	shared, err := smallCatalogue()
	if err != nil {
		t.Fatal(err)
	}
	made := *shared
	made.Dir = t.TempDir()
	made.Address = filepath.Join(made.Dir, "manifest.json")
	if err := os.CopyFS(made.Dir, os.DirFS(shared.Dir)); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte(made.PublicKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &site{mirror: serve(t, made.Dir), made: &made, key: key}
}

// world is one with an empty cache that pulls from the site. Nothing runs in it.
func (s *site) world(t *testing.T) *world {
	t.Helper()
	home, err := os.MkdirTemp("", "smolvm-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	return &world{bin: theWorld.bin, home: home, address: s.address, path: theWorld.path}
}

// args are those of a command that believes the site.
func (s *site) args(args ...string) []string {
	return append([]string{"--trusted-key", s.key}, args...)
}

func (s *site) pull() []string { return s.args("image", "pull", "claude", "--arch", "amd64") }

// missing is how many bytes of archives a cache lacks: of the frames that are
// neither in an object nor in a partial download. It trusts no file's name.
func (s *site) missing(t *testing.T, home string) int64 {
	t.Helper()
	var all int64
	for _, asset := range s.made.Manifest.Rows[0].Assets() {
		raw := read(t, filepath.Join(s.made.Dir, asset.Index.File))
		index, err := unpack.ParseIndex([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(home, "store/objects", asset.Index.SHA256, "record.json")); err == nil {
			continue
		}
		all += lacking(index, filepath.Join(home, "store/partial", asset.Index.SHA256, "content"))
	}
	return all
}

func lacking(index unpack.Index, path string) int64 {
	var all int64
	file, err := os.Open(path)
	if err == nil {
		defer file.Close()
	}
	for i, frame := range index.Frames {
		if frame.Zero {
			continue
		}
		data := make([]byte, index.Length(i))
		if err == nil {
			_, _ = file.ReadAt(data, index.Place(i))
		}
		if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != frame.Content {
			all += frame.Length
		}
	}
	return all
}

// wrong says what is wrong with the image that people see: a file that does not
// hold the bytes it should.
func (s *site) wrong(t *testing.T, w *world) string {
	t.Helper()
	release := s.made.Manifest.Release
	var text []string
	for _, asset := range s.made.Manifest.Rows[0].Assets() {
		names, err := filepath.Glob(filepath.Join(w.home, "images", release, "claude-code-amd64-*", asset.Name+"*"))
		if err != nil {
			t.Fatal(err)
		}
		names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, ".from-sha256") })
		if len(names) != 1 {
			text = append(text, asset.Name+" is not shown once")
			continue
		}
		sum := sha256.Sum256([]byte(read(t, names[0])))
		if hex.EncodeToString(sum[:]) != asset.Content.SHA256 {
			text = append(text, names[0]+" holds wrong bytes")
		}
	}
	return strings.Join(text, "\n")
}

// listed are the releases that list shows.
func (w *world) listed(t *testing.T) []string {
	t.Helper()
	var envelope struct {
		Data []struct{ Release string }
	}
	if err := json.Unmarshal([]byte(w.must(t, "image", "list", "--json")), &envelope); err != nil {
		t.Fatal(err)
	}
	var releases []string
	for _, image := range envelope.Data {
		releases = append(releases, image.Release)
	}
	return releases
}
