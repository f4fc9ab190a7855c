package oci

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

const hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

func TestParse(t *testing.T) {
	for address, want := range map[string][3]string{ // file, address of the OCI manifest, of a blob
		"oci://r.example/smol/vm":                              {"manifest.json", "https://r.example/v2/smol/vm/manifests/latest", "https://r.example/v2/smol/vm/blobs/sha256:" + hash},
		"oci://r.example:5000/vm:1.0#a b.zst":                  {"a b.zst", "https://r.example:5000/v2/vm/manifests/1.0", "https://r.example:5000/v2/vm/blobs/sha256:" + hash},
		"oci://r.example/vm@sha256:" + hash + "#x":             {"x", "https://r.example/v2/vm/manifests/sha256:" + hash, "https://r.example/v2/vm/blobs/sha256:" + hash},
		"oci://r.example/vm:1@sha256:" + hash:                  {"manifest.json", "https://r.example/v2/vm/manifests/sha256:" + hash, "https://r.example/v2/vm/blobs/sha256:" + hash},
		"oci://localhost:5000/vm#":                             {"manifest.json", "http://localhost:5000/v2/vm/manifests/latest", "http://localhost:5000/v2/vm/blobs/sha256:" + hash},
		"oci://127.0.0.1:5000/vm":                              {"manifest.json", "http://127.0.0.1:5000/v2/vm/manifests/latest", "http://127.0.0.1:5000/v2/vm/blobs/sha256:" + hash},
		"oci://[::1]:5000/vm":                                  {"manifest.json", "http://[::1]:5000/v2/vm/manifests/latest", "http://[::1]:5000/v2/vm/blobs/sha256:" + hash},
		"oci://10.0.0.1:5000/vm":                               {"manifest.json", "https://10.0.0.1:5000/v2/vm/manifests/latest", "https://10.0.0.1:5000/v2/vm/blobs/sha256:" + hash},
		"oci://registry.local/vm":                              {"manifest.json", "https://registry.local/v2/vm/manifests/latest", "https://registry.local/v2/vm/blobs/sha256:" + hash},
		"oci://docker.io/smol/vm#signature.minisig":            {"signature.minisig", "https://index.docker.io/v2/smol/vm/manifests/latest", "https://index.docker.io/v2/smol/vm/blobs/sha256:" + hash},
		"oci://127.0.0.1.nip.example:80/vm:tag#manifest.json#": {"manifest.json#", "https://127.0.0.1.nip.example:80/v2/vm/manifests/tag", "https://127.0.0.1.nip.example:80/v2/vm/blobs/sha256:" + hash},
	} {
		r, file, err := Parse(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if got := [3]string{file, r.manifestURL(), r.blobURL(hash)}; got != want {
			t.Errorf("%s:\n got %q\nwant %q", address, got, want)
		}
	}
	for _, bad := range []string{
		"", "oci:", "oci://", "oci://r", "oci://registry/vm", "oci://r.example", "oci://r.example/", "oci://r.example/UPPER", "oci://r.example/a b", "oci://r.example/vm:", "oci://r.example/vm:a/b",
		"oci://user@r.example/vm", "oci://user:word@r.example/vm", "oci://r.example/vm@sha256:abc", "oci://r.example/vm@sha512:" + hash, "oci://r.example/vm@sha256:" + strings.ToUpper(hash),
		"oci://r.example/vm?x=y", "http://r.example/vm", "oci://r.example/vm:" + strings.Repeat("x", 200), "oci://r.example/../x:1\x00",
	} {
		if r, _, err := Parse(bad); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %+v, %v", bad, r, err)
		}
	}
}

func TestDigestIn(t *testing.T) {
	if got, ok := digestIn("base-amd64-" + hash + ".zst"); !ok || got != hash {
		t.Errorf("%q, %v", got, ok)
	}
	for _, none := range []string{"", "manifest.json", hash + ".zst", "base-" + hash[1:] + ".zst", "base-" + strings.ToUpper(hash) + ".zst", "base-" + hash + ".json.zst"} {
		if got, ok := digestIn(none); ok {
			t.Errorf("%q: %q", none, got)
		}
	}
}

func layer(title, digest string) string {
	return `{"digest":"` + digest + `","size":3,"annotations":{"` + titleKey + `":"` + title + `"}}`
}

func TestManifestRefusals(t *testing.T) {
	good := layer("a", "sha256:"+hash)
	if files, err := parseManifest([]byte(`{"schemaVersion":2,"layers":[{"digest":"md5:x","size":-1},` + good + `]}`)); err != nil || files["a"] != (blob{hash, 3}) || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	for name, raw := range map[string]string{
		"empty":         ``,
		"cut":           `{"schemaVersion":2`,
		"two documents": `{"schemaVersion":2}{}`,
		"version 1":     `{"schemaVersion":1}`,
		"an index":      `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json"}`,
		"named twice":   `{"schemaVersion":2,"layers":[` + good + `,` + good + `]}`,
		"other digest":  `{"schemaVersion":2,"layers":[` + layer("a", "sha512:"+hash) + `]}`,
		"no digest":     `{"schemaVersion":2,"layers":[` + layer("a", "sha256:../../x") + `]}`,
		"negative size": `{"schemaVersion":2,"layers":[` + strings.Replace(good, "3", "-3", 1) + `]}`,
		"huge size":     `{"schemaVersion":2,"layers":[` + strings.Replace(good, `"size":3`, `"size":1e99`, 1) + `]}`,
		"many layers":   `{"schemaVersion":2,"layers":[` + strings.Repeat(`{},`, maxLayers) + `{}]}`,
		"deep":          strings.Repeat("[", 100_000),
	} {
		if files, err := parseManifest([]byte(raw)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v", name, files, err)
		}
	}
}

func TestWrittenManifestIsRead(t *testing.T) {
	raw, err := writeManifest([]File{{Name: "a.zst", Size: 5, SHA256: hash}, {Name: "manifest.json", SHA256: emptySHA256}, {Name: "x.minisig", SHA256: hash}})
	if err != nil {
		t.Fatal(err)
	}
	files, err := parseManifest(raw)
	if err != nil || len(files) != 3 || files["a.zst"] != (blob{hash, 5}) {
		t.Errorf("%v, %v", files, err)
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil || d.ArtifactType != artifactType || d.Config.MediaType != emptyType || d.Config.Size != 2 || d.Layers[0].MediaType != "application/zstd" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := writeManifest([]File{{Name: strings.Repeat("x", maxManifest)}}); err == nil {
		t.Error("larger than registries take")
	}
}

func TestFilesToPushAreChecked(t *testing.T) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }
	good := File{Name: "a", SHA256: hash, Open: open}
	if err := check([]File{good}); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]File{{{SHA256: hash, Open: open}}, {{Name: "a", SHA256: "x", Open: open}}, {{Name: "a", SHA256: hash}}, {{Name: "a", Size: -1, SHA256: hash, Open: open}}, {good, good}} {
		if err := check(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func FuzzReference(f *testing.F) {
	f.Add("oci://r.example:5000/smol/vm:1.0#manifest.json")
	f.Add("oci://[::1]:5000/vm@sha256:" + hash)
	f.Add("oci://localhost/vm#")
	f.Fuzz(func(t *testing.T, address string) {
		r, file, err := Parse(address)
		if err != nil {
			return
		}
		if file == "" || r.digest == "" && r.tag == "" {
			t.Errorf("%q: %+v, file %q", address, r, file)
		}
		if host := r.repo.RegistryStr(); strings.HasPrefix(r.manifestURL(), "http:") && !isLoopback(hostOf(host)) {
			t.Errorf("%q: plain http to %s", address, host)
		}
		if again, same, err := Parse(Beside(address, file)); err != nil || same != file || again.manifestURL() != r.manifestURL() {
			t.Errorf("%q: beside itself %q, %v", address, same, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	raw, err := writeManifest([]File{{Name: "a.zst", Size: 5, SHA256: hash}, {Name: "b", SHA256: emptySHA256}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"digest":"sha256:` + hash + `","annotations":{}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		files, err := parseManifest(raw)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			return
		}
		for name, b := range files {
			if name == "" || !isSHA256(b.sha256) || b.size < 0 {
				t.Errorf("%q: %+v", name, b)
			}
		}
	})
}
