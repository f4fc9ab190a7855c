package imagebuild

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/smolvm/smolvm/internal/process"
)

// member is one file of an archive that a test makes.
type member struct {
	name string
	kind byte // tar type; regular when 0
	data string
	link string
}

// tarOf makes an archive.
func tarOf(t *testing.T, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Mode: 0o755, Size: int64(len(m.data)), Linkname: m.link}
		if m.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readTar returns an archive's entries by name, links as "-> target".
func readTar(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	found := map[string]string{}
	in := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := in.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := found[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		found[h.Name] = string(data)
		if h.Linkname != "" {
			found[h.Name] = "-> " + h.Linkname
		}
	}
}

// fakeTools makes a runner whose mmdebstrap, dpkg-deb and pip are scripts: a
// package is a file NAME.deb with its archives beside it, a wheel is copied.
func fakeTools(t *testing.T) (run *process.Runner, packages string) {
	t.Helper()
	bin, packages := t.TempDir(), t.TempDir()
	scripts := map[string]string{
		"mmdebstrap": `for a; do case $a in
  --extract-hook=*) dir=$(echo "$a" | sed "s/.* '\(.*\)'$/\1/") ;;
  --include=gone=*) echo "E: Version '${a#*gone=}' for 'gone' was not found" >&2; exit 1 ;;
  --include=fails) echo "E: no such package" >&2; exit 1 ;;
esac; done
mkdir -p "$dir"; cp -R ` + packages + `/archives "$dir/"; echo "deb somewhere" >"$dir/sources.list"; echo run >>` + packages + `/calls`,
		"dpkg-deb": `case $1 in --ctrl-tarfile) cat "$2.ctrl" ;; --fsys-tarfile) cat "$2.data" ;; esac`,
		"python3": `while [ $# -gt 0 ]; do case $1 in --dest) dir=$2 ;; -r) lock=$2 ;; esac; shift; done
name=$(sed 's/==.*//' "$lock"); cp ` + packages + `/"$name".whl "$dir/"`,
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nset -eu\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(packages, "archives"), 0o755); err != nil {
		t.Fatal(err)
	}
	return process.New(process.Options{Environ: []string{"PATH=" + bin + ":/usr/bin:/bin"}}), packages
}

// fakeDeb adds a package to the folder of fakeTools.
func fakeDeb(t *testing.T, packages, name string, control, data []byte) {
	t.Helper()
	base := filepath.Join(packages, "archives", name+".deb")
	for path, raw := range map[string][]byte{base: []byte(name), base + ".ctrl": control, base + ".data": data} {
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fakeModule is an ELF file with nothing but a .modinfo section, packed with xz.
func fakeModule(t *testing.T, info string) string {
	t.Helper()
	names := "\x00.modinfo\x00.shstrtab\x00"
	const head = 64
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + string(make([]byte, 9)))
	sections := uint64(head + len(info) + len(names))
	for _, v := range []any{
		uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), sections, uint32(0),
		uint16(head), uint16(0), uint16(0), uint16(64), uint16(3), uint16(2),
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString(info + names)
	b.Write(make([]byte, 64)) // section 0
	for _, s := range [][10]uint64{
		{1, 1, 0, 0, head, uint64(len(info)), 0, 0, 1, 0},
		{10, 3, 0, 0, head + uint64(len(info)), uint64(len(names)), 0, 0, 1, 0},
	} {
		for i, v := range s {
			var field any = v
			if i == 0 || i == 1 || i == 6 || i == 7 {
				field = uint32(v)
			}
			if err := binary.Write(&b, binary.LittleEndian, field); err != nil {
				t.Fatal(err)
			}
		}
	}
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}
