package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Media types and limits of the OCI manifests that are read and written.
const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	artifactType = "application/vnd.smolvm.release.v1"
	emptyType    = "application/vnd.oci.empty.v1+json"
	titleKey     = "org.opencontainers.image.title"

	maxManifest = 4 << 20 // what registries accept at most
	maxLayers   = 10000

	// The empty JSON object, which OCI wants for a configuration that is none.
	emptyText   = "{}"
	emptySHA256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
)

// document is an OCI image manifest.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// blob is a file as a manifest describes it.
type blob struct {
	sha256 string
	size   int64
}

// parseManifest reads which files an OCI manifest names. Layers without a title
// are no files; everything about those with one has to be right.
func parseManifest(raw []byte) (map[string]blob, error) {
	var d document
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&d); err != nil {
		return nil, fmt.Errorf("%w OCI manifest: %w", ErrInvalid, err)
	}
	switch {
	case decoder.More():
		return nil, fmt.Errorf("%w OCI manifest: more after its end", ErrInvalid)
	case d.SchemaVersion != 2:
		return nil, fmt.Errorf("%w OCI manifest: schema version %d", ErrInvalid, d.SchemaVersion)
	case d.MediaType != "" && d.MediaType != manifestType:
		return nil, fmt.Errorf("%w OCI manifest: it is a %.80q", ErrInvalid, d.MediaType)
	case len(d.Layers) > maxLayers:
		return nil, fmt.Errorf("%w OCI manifest: %d layers", ErrInvalid, len(d.Layers))
	}
	return filesOf(d.Layers)
}

func filesOf(layers []descriptor) (map[string]blob, error) {
	files := map[string]blob{}
	for _, layer := range layers {
		title := layer.Annotations[titleKey]
		if title == "" {
			continue
		}
		hash, ok := strings.CutPrefix(layer.Digest, "sha256:")
		if !ok || !isSHA256(hash) || layer.Size < 0 {
			return nil, fmt.Errorf("%w OCI manifest: file %.80q has digest %.80q and size %d", ErrInvalid, title, layer.Digest, layer.Size)
		}
		if _, twice := files[title]; twice {
			return nil, fmt.Errorf("%w OCI manifest: file %.80q is named twice", ErrInvalid, title)
		}
		files[title] = blob{sha256: hash, size: layer.Size}
	}
	return files, nil
}

// writeManifest is the OCI manifest of a release; equal files, equal bytes.
func writeManifest(files []File) ([]byte, error) {
	d := document{
		SchemaVersion: 2, MediaType: manifestType, ArtifactType: artifactType,
		Config: descriptor{MediaType: emptyType, Digest: "sha256:" + emptySHA256, Size: int64(len(emptyText))},
		Layers: []descriptor{},
	}
	for _, f := range files {
		d.Layers = append(d.Layers, descriptor{
			MediaType: mediaType(f.Name), Digest: "sha256:" + f.SHA256, Size: f.Size,
			Annotations: map[string]string{titleKey: f.Name},
		})
	}
	raw, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, err
	}
	if len(raw) > maxManifest {
		return nil, fmt.Errorf("the OCI manifest of %d files has %d bytes, more than the %d that registries take", len(files), len(raw), maxManifest)
	}
	return raw, nil
}

func mediaType(file string) string {
	switch {
	case strings.HasSuffix(file, ".zst"):
		return "application/zstd"
	case strings.HasSuffix(file, ".json"):
		return "application/json"
	}
	return "application/octet-stream"
}
