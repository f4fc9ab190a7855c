package acquire

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/test/catalogue"
	"github.com/smolvm/smolvm/test/faulty"
)

// samples are places in a file: its ends, and some between.
func samples(size int64) []int64 {
	at := []int64{0, 1, size - 1}
	for i := int64(1); i < 8; i++ {
		at = append(at, size*i/8+i)
	}
	return at
}

// Flip a byte of the archive or of the index on the way, anywhere: what boots is
// what was published, or nothing boots.
func TestFlippedOnTheWay(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	for _, blob := range []struct {
		file string
		size int64
	}{{w.asset("base").Archive.File, w.asset("base").Archive.Size}, {w.asset("base").Index.File, w.asset("base").Index.Size}} {
		for _, at := range samples(blob.size) {
			for _, plain := range []bool{false, true} {
				w.home = filepath.Join(t.TempDir(), "home")
				w.server.Set(blob.file, faulty.Fault{Flip: at + 1, NoRanges: plain})
				image, err := w.launch(t.Context())
				if err == nil {
					w.checkBytes(t, image)
				}
				if err == nil && plain {
					t.Errorf("%s, byte %d: accepted", blob.file, at)
				}
			}
		}
		w.server.Set(blob.file)
	}
}

// Flip a byte of what is stored, with every sign of it hidden that can be hidden:
// the next launch boots what was published.
func TestFlippedInTheStore(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	image := w.mustLaunch(t)
	folder := filepath.Dir(image.Layers[0].Path)
	for _, name := range []string{"content", "index.json", "record.json"} {
		path := filepath.Join(folder, name)
		info, err := os.Stat(path)
		must(t, err)
		for _, at := range samples(info.Size()) {
			flip(t, path, at)
			w.mustLaunch(t)
		}
	}
}

// flip changes a byte in place and sets the time back.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Chmod(path, 0o644))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	one := make([]byte, 1)
	_, err = file.ReadAt(one, at)
	must(t, err)
	one[0] ^= 0x10
	_, err = file.WriteAt(one, at)
	must(t, err)
	must(t, file.Close())
	must(t, os.Chmod(path, info.Mode()))
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// Flip a byte of what an interrupted run left: the frame is fetched again.
func TestFlippedInThePartial(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	base, index := w.asset("base"), w.index(t, "base")
	partial := filepath.Join(w.home, "store", "partial", base.Index.SHA256)
	for _, name := range []string{"content", "index.json"} {
		for _, at := range []int64{100, catalogue.SmallFrame + 12_345, 7*catalogue.SmallFrame + 3} {
			must(t, os.RemoveAll(w.home))
			w.server.Set(base.Archive.File, faulty.Fault{Stop: faulty.Cut, Within: faulty.Span{From: index.Frames[40].Offset}})
			if _, err := w.launch(t.Context()); err == nil {
				t.Fatal("not interrupted")
			}
			w.server.Set(base.Archive.File)
			path := filepath.Join(partial, name)
			info, err := os.Stat(path)
			must(t, err)
			flip(t, path, min(at, info.Size()-1))
			w.mustLaunch(t)
		}
	}
}

// marker is what hostile bytes expand to.
var marker = []byte("HOSTILE-BYTES-REACHED-THE-DECODER")

// blamed records which places were struck out.
type blamed struct {
	*fetch.Mirrors
	mu     sync.Mutex
	places []string
}

// Strike records.
func (b *blamed) Strike(place string, reason error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.places = append(b.places, place)
	return b.Mirrors.Strike(place, reason)
}

// No decoder sees a byte whose digest was not compared: frames that are right in
// form, as long as the published ones, and expand to a marker, leave no trace of
// it anywhere under the home, neither from the network, nor out of a stored
// object, nor out of a partial.
func TestNothingUnverifiedIsDecoded(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	base, index := w.asset("base"), w.index(t, "base")
	archive, err := os.ReadFile(filepath.Join(w.made.Dir, base.Archive.File))
	must(t, err)
	poisoned := slices.Clone(archive)
	for i := 0; i < len(index.Frames); i += 5 {
		if f := index.Frames[i]; !f.Zero {
			copy(poisoned[f.Offset:], poison(t, f.Length))
		}
	}
	for _, plain := range []bool{false, true} {
		w.home = filepath.Join(t.TempDir(), "home")
		w.server.Set(base.Archive.File, faulty.Fault{Body: poisoned, NoRanges: plain})
		st, err := store.Open(w.home)
		must(t, err)
		source := impatient(0)
		plan, err := w.plan(t.Context(), source, st)
		must(t, err)
		places := &blamed{Mirrors: source.Mirrors(plan.Places, w.events)}
		if _, _, err := w.acquirer(st, places).Run(t.Context(), plan, Options{KeepArchive: plain}); err == nil || len(places.places) != 1 {
			t.Fatalf("accepted, or nobody was blamed: %v, %q", err, places.places)
		}
		noTrace(t, w.home)
		w.server.Set(base.Archive.File)
		w.poisonPartial(t, base.Index.SHA256)
		image := w.mustLaunch(t)
		noTrace(t, w.home)
		w.poisonStore(t, image)
		w.mustLaunch(t)
		noTrace(t, w.home)
	}
}

// poison is a frame of that length which expands to a whole frame of markers.
func poison(t *testing.T, length int64) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	must(t, err)
	defer encoder.Close()
	plain := bytes.Repeat(marker, catalogue.SmallFrame/len(marker)+1)[:catalogue.SmallFrame]
	// Noise at the end makes it as long as needed.
	low, high := 0, catalogue.SmallFrame
	var best []byte
	for low <= high {
		n := (low + high) / 2
		data := append(slices.Clone(plain[:len(plain)-n]), catalogue.Noise(9, n)...)
		packed := encoder.EncodeAll(data, nil)
		if int64(len(packed)) <= length {
			best, low = packed, n+1
		} else {
			high = n - 1
		}
	}
	return best
}

func (w *world) poisonPartial(t *testing.T, key string) {
	t.Helper()
	path := filepath.Join(w.home, "store", "partial", key, "content")
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer file.Close()
	_, err = file.WriteAt(marker, 3*catalogue.SmallFrame)
	must(t, err)
}

func (w *world) poisonStore(t *testing.T, image record.Image) {
	t.Helper()
	must(t, os.Chmod(image.Layers[0].Path, 0o644))
	file, err := os.OpenFile(image.Layers[0].Path, os.O_WRONLY, 0)
	must(t, err)
	defer file.Close()
	_, err = file.WriteAt(marker, 30*catalogue.SmallFrame+77)
	must(t, err)
}

// noTrace reads every file under home.
func noTrace(t *testing.T, home string) {
	t.Helper()
	for _, path := range filesIn(t, home) {
		file, err := os.Open(path)
		must(t, err)
		data, err := io.ReadAll(file)
		must(t, err)
		must(t, file.Close())
		if bytes.Contains(data, marker) {
			t.Errorf("%s holds bytes that were never verified", path)
		}
	}
}
