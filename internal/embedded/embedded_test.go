package embedded

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAgent(t *testing.T) {
	whole := packed(t, bytes.Repeat([]byte("program"), 1000))
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-5] ^= 1 // the checksum
	for _, c := range []struct {
		name, arch, want string
		file             []byte
	}{
		{"whole", "arm64", "", whole},
		{"missing", "arm64", "built without the guest agent for arm64", nil},
		{"damaged", "arm64", "checksum", damaged},
		{"cut", "arm64", "unexpected EOF", whole[:len(whole)-3]},
		{"no gzip", "arm64", "unpack the guest agent", []byte("#!/bin/sh")},
		{"unknown", "../../etc/passwd", "no guest agent for architecture", whole},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := fstest.MapFS{}
			if c.file != nil {
				files["guest/smolvm-guest-arm64.gz"] = &fstest.MapFile{Data: c.file}
			}
			got, err := agent(files, c.arch)
			if c.want == "" && (err != nil || len(got) != 7000) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got error %v, want %q", err, c.want)
			}
		})
	}
}

func TestEmbedded(t *testing.T) {
	for _, dir := range []string{"guest", "release"} {
		files := guestFiles
		if dir == "release" {
			files = releaseFiles
		}
		if _, err := files.ReadFile(dir + "/.gitignore"); err != nil {
			t.Errorf("%s would not match in a fresh checkout: %v", dir, err)
		}
	}
}

func TestReleaseManifest(t *testing.T) {
	if _, _, ok := releaseManifest(fstest.MapFS{}); ok {
		t.Error("a manifest in a build without one")
	}
	raw, signatures, ok := releaseManifest(fstest.MapFS{
		"release/manifest.json":              {Data: []byte("m")},
		"release/manifest.json.AA11.minisig": {Data: []byte("a")},
		"release/manifest.json.BB22.minisig": {Data: []byte("b")},
		"release/.gitignore":                 {Data: []byte("*")},
	})
	want := map[string][]byte{"AA11": []byte("a"), "BB22": []byte("b")}
	if !ok || string(raw) != "m" || !cmp.Equal(signatures, want) {
		t.Errorf("%q %q %v", raw, signatures, ok)
	}
}

// link sets what the linker would, for one test.
func link(t *testing.T, v, development, release string) {
	t.Helper()
	v0, d0, r0 := version, developmentKey, releaseKeys
	t.Cleanup(func() { version, developmentKey, releaseKeys = v0, d0, r0 })
	version, developmentKey, releaseKeys = v, development, release
}

func TestKeys(t *testing.T) {
	link(t, "", "dev", "rel")
	if d := cmp.Diff([]string{"dev"}, Keys()); d != "" || !Release().Development {
		t.Errorf("a development build: %s", d)
	}
	if _, ok := keyList(fstest.MapFS{"release/keys.json": {Data: []byte("{}")}}); ok || Threshold() != 1 {
		t.Error("a development build takes a release's keys")
	}
	link(t, "1.2.3", "dev", "one, two,")
	if raw, ok := keyList(fstest.MapFS{"release/keys.json": {Data: []byte("{}")}}); !ok || string(raw) != "{}" {
		t.Errorf("the key list of a release is %q", raw)
	}
	if _, ok := keyList(fstest.MapFS{}); ok {
		t.Error("a key list in a release without one")
	}
	for text, want := range map[string]int{"": 1, "2": 2, "two": 0, "-1": -1} {
		if releaseThreshold = text; Threshold() != want {
			t.Errorf("threshold %q is %d", text, Threshold())
		}
	}
	releaseThreshold = ""
	if d := cmp.Diff([]string{"one", "two"}, Keys()); d != "" || Release().Development || DevelopmentKey() != "" {
		t.Errorf("a release takes the development key: %s %q", d, DevelopmentKey())
	}
}
