package release

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/test/faulty"
)

// problems are the codes of the files that are not right.
func problems(t *testing.T, h *home, c resolve.Catalogue) map[string]fault.Code {
	t.Helper()
	files, err := Check(t.Context(), c, hasty(), h.options())
	check(t, err)
	if len(files) != 12*len(c.Places) {
		t.Errorf("%d files were read at %d places", len(files), len(c.Places))
	}
	found := map[string]fault.Code{}
	for _, f := range files {
		if f.Right != (f.Problem == "") || f.Right != (f.Code == "") {
			t.Errorf("%+v", f)
		}
		if !f.Right {
			found[f.File] = f.Code
		}
	}
	return found
}

// TestCheckReadsEveryAddress damages, cuts, lengthens and removes files, of every
// kind that a manifest names.
func TestCheckReadsEveryAddress(t *testing.T) {
	h := newHome(t)
	server, address := site(t, publisher(t).Dir)
	c := h.catalogue(t, address+"/")
	if wrong := problems(t, h, c); len(wrong) != 0 {
		t.Errorf("all is right, and %v", wrong)
	}
	row := c.Manifest.Rows[0]
	want := map[string]fault.Code{}
	for file, set := range map[string]struct {
		fault faulty.Fault
		code  fault.Code
	}{
		row.SBOM.File:                   {faulty.Fault{Status: 404}, fault.NotFound},
		row.Build.File:                  {faulty.Fault{Status: 500}, fault.Network},
		row.Layers[1].Archive.File:      {faulty.Fault{Status: 403}, fault.Network},
		row.Kernel.Image.Index.File:     {faulty.Fault{Status: 410}, fault.NotFound},
		row.Kernel.Modules.Index.File:   {faulty.Fault{Status: 404}, fault.NotFound},
		row.Kernel.Image.Archive.File:   {faulty.Fault{Status: 404}, fault.NotFound},
		row.Layers[0].Archive.File:      {faulty.Fault{Status: 404}, fault.NotFound},
		row.Kernel.Modules.Archive.File: {faulty.Fault{Status: 404}, fault.NotFound},
	} {
		server.Set(file, set.fault, set.fault, set.fault, set.fault, set.fault, set.fault)
		want[file] = set.code
	}
	got := problems(t, h, c)
	for file, code := range want {
		if got[file] != code {
			t.Errorf("%s: %q, want %q", file, got[file], code)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCheckFindsOtherBytes(t *testing.T) {
	h := newHome(t)
	dir := filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(dir, os.DirFS(publisher(t).Dir)))
	c := h.catalogue(t, dir)
	row := c.Manifest.Rows[0]
	longer := filepath.Join(dir, row.SBOM.File)
	raw, err := os.ReadFile(longer)
	check(t, err)
	check(t, os.WriteFile(longer, append(raw, '\n'), 0o644))
	check(t, os.Truncate(filepath.Join(dir, row.Layers[0].Archive.File), row.Layers[0].Archive.Size-1))
	flipped := filepath.Join(dir, row.Layers[1].Archive.File)
	raw, err = os.ReadFile(flipped)
	check(t, err)
	raw[len(raw)/2] ^= 1
	check(t, os.WriteFile(flipped, raw, 0o644))
	got := problems(t, h, c)
	if len(got) != 3 {
		t.Errorf("%v", got)
	}
	for file, code := range got {
		if code != fault.Trust {
			t.Errorf("%s: %q", file, code)
		}
	}
}
