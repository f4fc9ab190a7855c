// Package catalogue publishes small images for tests: real archives, indexes, a
// manifest and its signature in a folder, as the publishing side would leave
// them. Nothing in them boots.
package catalogue

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/unpack"
)

// Catalogue is a published folder and what is needed to publish it again.
type Catalogue struct {
	Dir        string
	Address    string // path of the manifest
	PrivateKey string
	PublicKey  string
	Manifest   manifest.Manifest
}

// Make publishes one release with a row for claude-code on amd64 and one on
// arm64, both under QEMU, in dir. Its manifest is valid for a day around now.
func Make(ctx context.Context, dir string, now time.Time) (*Catalogue, error) {
	private, public, err := trust.NewKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	c := &Catalogue{Dir: dir, Address: filepath.Join(dir, "manifest.json"), PrivateKey: private, PublicKey: public}
	row, err := c.row(ctx)
	if err != nil {
		return nil, err
	}
	other := row
	other.Arch = "arm64"
	c.Manifest = manifest.Manifest{
		Schema: manifest.Schema, Release: "1.0.0", Serial: 7, MinVersion: "0.1.0",
		Created: now.Add(-12 * time.Hour).UTC().Truncate(time.Second),
		Expires: now.Add(12 * time.Hour).UTC().Truncate(time.Second),
		Rows:    []manifest.Row{row, other},
	}
	return c, c.Publish()
}

func (c *Catalogue) row(ctx context.Context) (manifest.Row, error) {
	row := manifest.Row{
		Preset: "claude-code", Arch: "amd64", VMM: "qemu",
		Agent:     manifest.Agent{Name: "Claude Code", Version: "1.2.3"},
		Kernel:    manifest.Kernel{Version: "6.12.0-test", StandIn: "nobody", CommandLine: "quiet"},
		Resources: manifest.Resources{MemoryMiB: 1024, DiskMiB: 8192},
	}
	var err error
	if row.Kernel.Image, err = c.Add(ctx, "kernel", Noise(1, 200_000)); err != nil {
		return row, err
	}
	modules, err := c.Add(ctx, "modules", Noise(2, 5_000))
	if err != nil {
		return row, err
	}
	row.Kernel.Modules = &modules
	for i, name := range []string{"base", "claude-code"} {
		layer, err := c.Add(ctx, name, Disk(uint64(i)+3))
		if err != nil {
			return row, err
		}
		row.Layers = append(row.Layers, layer)
	}
	if row.SBOM, err = c.document("sbom-claude-code-amd64", ".spdx.json", `{"spdxVersion": "SPDX-2.3"}`); err != nil {
		return row, err
	}
	row.Build, err = c.document("build-claude-code-amd64", ".json", `[]`)
	return row, err
}

// document publishes text that describes the image.
func (c *Catalogue) document(name, extension, text string) (*manifest.Blob, error) {
	sum := digest([]byte(text))
	blob := manifest.Blob{File: manifest.FileName(name, sum.SHA256, extension), Digest: sum}
	return &blob, os.WriteFile(filepath.Join(c.Dir, blob.File), []byte(text), 0o644)
}

// Add publishes bytes as an asset.
func (c *Catalogue) Add(ctx context.Context, name string, data []byte) (manifest.Asset, error) {
	var archive bytes.Buffer
	index, packed, content, err := unpack.Compress(ctx, bytes.NewReader(data), int64(len(data)), &archive)
	if err != nil {
		return manifest.Asset{}, err
	}
	return c.write(name, index, archive.Bytes(), packed, content)
}

// write puts an asset's files into the folder.
func (c *Catalogue) write(name string, index unpack.Index, archive []byte, packed, content manifest.Digest) (manifest.Asset, error) {
	raw, err := index.Encode()
	if err != nil {
		return manifest.Asset{}, err
	}
	described := digest(raw)
	asset := manifest.Asset{
		Name: name, Content: content,
		Archive: manifest.Blob{File: manifest.FileName(name, packed.SHA256, ".zst"), Digest: packed},
		Index:   manifest.Blob{File: manifest.FileName(name, described.SHA256, ".index.json"), Digest: described},
	}
	if err := os.WriteFile(filepath.Join(c.Dir, asset.Archive.File), archive, 0o644); err != nil {
		return manifest.Asset{}, err
	}
	return asset, os.WriteFile(filepath.Join(c.Dir, asset.Index.File), raw, 0o644)
}

// Publish writes the manifest as it is now, with a fresh signature.
func (c *Catalogue) Publish() error {
	raw, err := manifest.Encode(c.Manifest)
	if err != nil {
		return err
	}
	return c.PublishRaw(raw)
}

// PublishRaw signs and writes bytes that may not be a manifest.
func (c *Catalogue) PublishRaw(raw []byte) error {
	signature, id, err := trust.Sign(raw, c.PrivateKey)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := os.WriteFile(c.Address, raw, 0o644); err != nil {
		return err
	}
	return os.WriteFile(trust.SignatureFile(c.Address, id), signature, 0o644)
}

// Noise is data that does not pack.
func Noise(seed uint64, size int) []byte {
	random := mrand.New(mrand.NewPCG(seed, seed))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	return data
}

// Disk is an image of two frames and a bit: noise, holes, and an empty frame.
func Disk(seed uint64) []byte {
	data := make([]byte, 2*unpack.FrameSize+64<<10)
	copy(data[4096:], Noise(seed, 300_000))
	copy(data[len(data)-4096:], Noise(seed+100, 4096))
	return data
}
