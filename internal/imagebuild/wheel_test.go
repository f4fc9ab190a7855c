package imagebuild

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// zipOf writes an archive; names come with their contents.
func zipOf(t *testing.T, path string, files map[string]string) {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, data := range files {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWheelFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "demo.whl")
	zipOf(t, path, map[string]string{
		"demo/bin/node": "ELF", "demo/lib/npm/cli.js": "js", "demo/lib/npm/docs/a.md": "docs",
		"demo/lib/npm/../../../etc/passwd": "evil", "/demo/lib/npm/abs": "evil",
	})
	w := Wheel{
		Name: "demo",
		Paths: []WheelPath{
			{From: "demo/bin/node", To: "/usr/local/bin/node", Mode: "0755"},
			{From: "demo/lib/npm/", To: "/usr/local/lib/npm/", Exclude: []string{"docs/"}},
		},
		Links: []Link{{Path: "/usr/local/bin/npm", Target: "../lib/npm/cli.js"}},
	}
	var b bytes.Buffer
	root := newRootTar(&b, nil)
	if err := w.copyTo(root, path); err != nil {
		t.Fatal(err)
	}
	if err := root.close(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr/": "", "usr/local/": "", "usr/local/bin/": "", "usr/local/lib/": "", "usr/local/lib/npm/": "",
		"usr/local/bin/node": "ELF", "usr/local/lib/npm/cli.js": "js", "usr/local/bin/npm": "-> ../lib/npm/cli.js",
	}
	if diff := cmp.Diff(want, readTar(t, b.Bytes())); diff != "" {
		t.Error(diff)
	}

	w.Paths = []WheelPath{{From: "demo/bin/gone", To: "/usr/bin/gone"}}
	if err := w.copyTo(newRootTar(&b, nil), path); err == nil || !strings.Contains(err.Error(), "demo/bin/gone") {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("<html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.copyTo(newRootTar(&b, nil), path); err == nil {
		t.Error("HTML was taken for a wheel")
	}
}
