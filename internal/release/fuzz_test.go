package release

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad: whatever the bytes, a load ends, without a panic, and with either
// nothing to be seen or the published bytes.
func FuzzLoad(f *testing.F) {
	whole := save(f, claude)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(whole[:3*blockSize])
	f.Add([]byte("{}"))
	items := entries(f, whole)
	f.Add(packed(items[1:]))
	f.Add(packed(append(items[:1:1], items[3:]...)))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := newHome(t)
		if _, err := h.load(t.Context(), bytes.NewReader(data)); err != nil {
			h.isEmpty(t)
			return
		}
		images, err := h.store.Images()
		check(t, err)
		for _, image := range images {
			for _, file := range image.Files {
				got, err := os.ReadFile(filepath.Join(image.Path, file.Name))
				if err != nil || !bytes.Equal(got, contents()[file.Name]) {
					t.Errorf("%s is not what was published (%v)", file.Name, err)
				}
			}
		}
	})
}

// FuzzTarReader compares the reader with the writer: what it accepts is byte for
// byte what would be written for the same files.
func FuzzTarReader(f *testing.F) {
	f.Add(packed([]item{{name: "a", data: []byte("x")}, {name: "b", data: nil}}))
	f.Add(packed(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &tarReader{src: bytes.NewReader(data)}
		var items []item
		for _, name := range []string{"a", "b"} {
			got, err := r.file(name, 1<<16)
			if err != nil {
				return
			}
			items = append(items, item{name: name, data: got})
		}
		if r.end() == nil && !bytes.Equal(packed(items), data) {
			t.Errorf("accepted %q", data)
		}
	})
}
