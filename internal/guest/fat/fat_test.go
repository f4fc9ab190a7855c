//go:build linux

package fat_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	writer "github.com/smolvm/smolvm/internal/fsimg/fat"
	"github.com/smolvm/smolvm/internal/guest/fat"
)

// image is what the host writes.
func image(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var list []writer.File
	for _, name := range []string{"user-data", "meta-data", "network-config", "a rather long file name, with a comma.json", "X.TXT"} {
		if content, ok := files[name]; ok {
			list = append(list, writer.File{Name: name, Data: []byte(content)})
		}
	}
	var out bytes.Buffer
	if err := writer.Write(&out, "CIDATA", list); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestReadsWhatTheHostWrites(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"fat12": {"user-data": "#cloud-config\n{}", "meta-data": "", "network-config": strings.Repeat("n", 512)},
		"fat16": {"user-data": strings.Repeat("0123456789abcdef", 3<<16), "a rather long file name, with a comma.json": "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := fat.Read(image(t, files))
			if err != nil {
				t.Fatal(err)
			}
			text := map[string]string{}
			for name, content := range got {
				text[name] = string(content)
			}
			if diff := cmp.Diff(files, text); diff != "" {
				t.Errorf("(-want +got)\n%.500s", diff)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	good := image(t, map[string]string{"user-data": strings.Repeat("x", 5000)})
	damage := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	root := bytes.Index(good, []byte("USER-D")) // the short entry; the size is 28 bytes on
	for name, volume := range map[string][]byte{
		"empty":            nil,
		"zeros":            make([]byte, 4096),
		"cut":              good[:600],
		"odd sectors":      damage(func(b []byte) { b[11] = 3 }),
		"no clusters":      damage(func(b []byte) { b[13] = 0 }),
		"no tables":        damage(func(b []byte) { b[16] = 0 }),
		"huge tables":      damage(func(b []byte) { binary.LittleEndian.PutUint16(b[22:], 0xffff) }),
		"no root":          damage(func(b []byte) { binary.LittleEndian.PutUint16(b[17:], 0) }),
		"file too large":   damage(func(b []byte) { binary.LittleEndian.PutUint32(b[root+28:], 1<<31) }),
		"chain too short":  damage(func(b []byte) { binary.LittleEndian.PutUint32(b[root+28:], 20000) }),
		"chain from start": damage(func(b []byte) { binary.LittleEndian.PutUint16(b[root+26:], 0) }),
	} {
		if got, err := fat.Read(volume); err == nil {
			t.Errorf("%s: accepted with %d files", name, len(got))
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(image(f, map[string]string{"user-data": "#cloud-config\n{}", "meta-data": "{}"}))
	f.Add(image(f, map[string]string{"X.TXT": strings.Repeat("y", 3000)}))
	f.Fuzz(func(t *testing.T, volume []byte) {
		files, err := fat.Read(volume)
		if err != nil {
			return
		}
		for name, content := range files {
			if len(content) > len(volume) {
				t.Errorf("file %q of %d bytes in a volume of %d", name, len(content), len(volume))
			}
		}
	})
}
