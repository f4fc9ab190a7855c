package acquire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/test/faulty"
)

// Every fault on the way either is overcome or ends in one clear error, whether
// the server knows ranges or not. Wrong bytes are never accepted, what is left is
// nothing but a partial, and the next launch works.
func TestFaultsOnTheWay(t *testing.T) {
	w := newWorld(t)
	base, kernel := w.asset("base"), w.asset("kernel")
	html := map[string][]string{"Content-Type": {"text/html; charset=utf-8"}}
	tests := []struct {
		name, file string
		fault      faulty.Fault
		code       fault.Code // empty: it is overcome
		says       string
	}{
		{"cut at 0, once", base.Archive.File, faulty.Fault{Stop: faulty.Cut, Times: 1}, "", ""},
		{"cut at 1, once", base.Archive.File, faulty.Fault{Stop: faulty.Cut, After: 1, Times: 1}, "", ""},
		{"cut in a frame, once", base.Archive.File, faulty.Fault{Stop: faulty.Cut, After: 1000, Times: 1}, "", ""},
		{"cut at the last byte, once", kernel.Archive.File, faulty.Fault{Stop: faulty.Cut, After: kernel.Archive.Size - 1, Times: 1}, "", ""},
		{"cut at 0", base.Archive.File, faulty.Fault{Stop: faulty.Cut}, fault.Network, "base"},
		{"cut in a frame", base.Archive.File, faulty.Fault{Stop: faulty.Cut, After: 1000}, fault.Network, "base"},
		{"short, announced", kernel.Archive.File, faulty.Fault{Stop: faulty.Shorten, After: 1000}, fault.Network, "kernel"},
		{"short, clean end", kernel.Archive.File, faulty.Fault{Stop: faulty.Shorten, After: 1000, Chunked: true}, fault.Network, "kernel"},
		{"hangs, once", base.Archive.File, faulty.Fault{Stop: faulty.Hang, After: 1000, Times: 1}, "", ""},
		{"gone", base.Archive.File, faulty.Fault{Status: 404, Body: []byte("no")}, fault.Network, "404"},
		{"busy, once", base.Archive.File, faulty.Fault{Status: 503, Body: []byte("no"), Times: 1}, "", ""},
		{"busy", base.Archive.File, faulty.Fault{Status: 503, Body: []byte("no")}, fault.Network, "503"},
		{"web page", base.Archive.File, faulty.Fault{Body: []byte("<html>" + strings.Repeat(" ", 1<<20)), Header: html}, fault.Network, "web page"},
		{"packed again", base.Archive.File, faulty.Fault{Header: map[string][]string{"Content-Encoding": {"gzip"}}}, fault.Network, "gzip"},
		{"middle byte wrong", base.Archive.File, faulty.Fault{Flip: base.Archive.Size / 2}, fault.Trust, "digest mismatch"},
		{"last byte wrong", base.Archive.File, faulty.Fault{Flip: base.Archive.Size}, fault.Trust, "http://127.0.0.1"},
		{"other file", base.Archive.File, faulty.Fault{Body: make([]byte, base.Archive.Size)}, fault.Trust, "digest mismatch"},
		{"larger file", base.Archive.File, faulty.Fault{Body: make([]byte, base.Archive.Size+1)}, fault.Network, "the manifest says"},
		{"index byte wrong", base.Index.File, faulty.Fault{Flip: 40}, fault.Trust, "frame index"},
		{"index endless", base.Index.File, faulty.Fault{Body: make([]byte, 1<<20), Chunked: true}, fault.Network, "larger"},
		{"index gone", base.Index.File, faulty.Fault{Status: 404, Body: []byte("no")}, fault.Network, "404"},
		{"kernel byte wrong", kernel.Archive.File, faulty.Fault{Flip: 77}, fault.Trust, "kernel"},
	}
	for _, test := range tests {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain=%v", test.name, plain), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				met := test.fault
				met.NoRanges = plain
				w.server.Set(test.file, met, faulty.Fault{NoRanges: plain})
				w.expect(t, test.code, test.says)
				if left := w.temps(t); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
				w.server.Set(test.file)
				w.mustLaunch(t)
				if left := w.partials(t); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			})
		}
	}
}

// expect launches and looks at what comes of it.
func (w *world) expect(t *testing.T, code fault.Code, says string) {
	t.Helper()
	image, err := w.launch(t.Context())
	switch {
	case err == nil && code != "":
		t.Fatal("the image was accepted")
	case err == nil:
		w.checkBytes(t, image)
	case fault.CodeOf(err) != code || !strings.Contains(err.Error(), says) || fault.HintOf(err) == "":
		t.Errorf("err = %v (%s, hint %q), want %s with %q", err, fault.CodeOf(err), fault.HintOf(err), code, says)
	}
}

// Where the whole archive passes, every byte of it counts, whether it is needed
// or not: those after its end and those of empty frames, too.
func TestWholeArchivePasses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	base := w.asset("base")
	zero := w.index(t, "base").Frames[1]
	for name, met := range map[string]faulty.Fault{
		"bytes after the end": {Extra: []byte("x"), Chunked: true},
		"empty frame":         {Flip: zero.Offset + 20},
	} {
		t.Run(name, func(t *testing.T) {
			met.NoRanges = true
			w.server.Set(base.Archive.File, met)
			w.home = filepath.Join(t.TempDir(), "home")
			w.expect(t, fault.Trust, "base")
		})
	}
}

// The manifest and the index, both signed for, contradict each other: found where
// the whole archive passes, and nothing of it stays.
func TestManifestContradictsIndex(t *testing.T) {
	t.Parallel()
	w := newSmallWorld(t)
	row := &w.made.Manifest.Rows[0]
	file := row.Layers[0].Archive.File
	row.Layers[0].Archive.SHA256 = row.Kernel.Image.Archive.SHA256
	row.Layers[0].Archive.File = strings.Replace(file, file[len("base-"):len("base-")+64], row.Layers[0].Archive.SHA256, 1)
	must(t, w.made.Publish())
	copyFile(t, filepath.Join(w.made.Dir, file), filepath.Join(w.made.Dir, row.Layers[0].Archive.File))
	w.server.Set(row.Layers[0].Archive.File, faulty.Fault{NoRanges: true})
	for range 2 {
		w.expect(t, fault.Trust, "not that of the manifest")
	}
	partial := filepath.Join(w.home, "store", "partial", row.Layers[0].Index.SHA256)
	if _, err := os.Lstat(partial); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %s", partial)
	}
}
