package imagebuild

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// ManifestFile is the manifest's name in a published folder.
const ManifestFile = "manifest.json"

const (
	lifetime = 90 * 24 * time.Hour // of a published manifest
	renewal  = 30 * 24 * time.Hour // an unchanged manifest with less left is signed anew
)

// Publication is a folder of published images and the key that signs for it.
type Publication struct {
	Dir     string // absolute
	Private string // minisign private key, unencrypted
	Public  string // its public half
	VMMs    []string
	Base    Base
	Now     func() time.Time
	Sink    event.Sink
}

// Publish adds the images to the folder: assets under names that hold their
// digests, then the signature and the manifest. Rows of other images stay. A file
// that exists under an asset's name must hold exactly its bytes. When nothing
// changed, the signed manifest that is there is kept.
func (p Publication) Publish(ctx context.Context, images []Image) (manifest.Manifest, error) {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return manifest.Manifest{}, fault.New(fault.Storage, "", "make the published folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(p.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return manifest.Manifest{}, fault.New(fault.Storage, "", "lock the published folder: %w", err)
	}
	if err := lockFile(ctx, lock, p.Sink, p.Dir); err != nil {
		return manifest.Manifest{}, err
	}
	defer lock.Close()
	for _, image := range images {
		if err := p.putImage(ctx, image); err != nil {
			return manifest.Manifest{}, err
		}
	}
	return p.putManifest(p.rows(images))
}

func (p Publication) putImage(ctx context.Context, image Image) error {
	for _, a := range []Archived{image.Kernel, image.Base, image.Layer} {
		for _, asset := range a.Assets {
			for _, blob := range []manifest.Blob{asset.Archive, asset.Index} {
				if err := p.putAsset(ctx, filepath.Join(a.Dir, blob.File), blob); err != nil {
					return fmt.Errorf("publish %s: %w", blob.File, err)
				}
			}
		}
	}
	return p.putBuildRecord(image)
}

// putBuildRecord publishes what the image was made from, beside it.
func (p Publication) putBuildRecord(image Image) error {
	raw, err := json.MarshalIndent([]Record{image.Kernel.Record, image.Base.Record, image.Layer.Record}, "", "  ")
	if err != nil {
		return err
	}
	file := blob("build-"+image.Preset.Name+"-"+image.Arch, ".json", raw).File
	return writeAtomically(filepath.Join(p.Dir, file), raw)
}

// putAsset copies one file into the folder, checking its digest on the way.
func (p Publication) putAsset(ctx context.Context, from string, blob manifest.Blob) error {
	to := filepath.Join(p.Dir, blob.File)
	digest, err := fileDigest(ctx, to, io.Discard)
	if err == nil {
		if digest != blob.Digest {
			return fault.New(fault.Conflict, "Published files are never replaced. Remove it if it is damaged.",
				"%s is there with other bytes (SHA-256 %s)", to, digest.SHA256)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp, err := os.CreateTemp(p.Dir, ".part-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	if digest, err = fileDigest(ctx, from, temp); err != nil {
		return err
	}
	if digest != blob.Digest {
		return fault.New(fault.Storage, "Remove the build cache and build again.", "%s in the build cache is damaged", from)
	}
	return place(temp, to)
}

// place flushes a temporary file and gives it its name, which must not exist.
func place(temp *os.File, to string) error {
	if err := errors.Join(temp.Chmod(0o644), temp.Sync()); err != nil {
		return err
	}
	if err := os.Link(temp.Name(), to); err != nil {
		return err
	}
	return syncPath(filepath.Dir(to))
}

// fileDigest copies a file to w and returns what it read.
func fileDigest(ctx context.Context, path string, w io.Writer) (manifest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return manifest.Digest{}, err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(w, sum), f)
	return manifest.Digest{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: size}, err
}

// rows are the manifest's rows of the images, one for each VMM.
func (p Publication) rows(images []Image) []manifest.Row {
	var rows []manifest.Row
	for _, image := range images {
		for _, vmm := range p.VMMs {
			rows = append(rows, p.row(image, vmm))
		}
	}
	return rows
}

func (p Publication) row(image Image, vmm string) manifest.Row {
	r := image.Preset.Resources
	return manifest.Row{
		Preset: image.Preset.Name, Arch: image.Arch, VMM: vmm,
		Agent: manifest.Agent{Name: image.Preset.Agent.Name, Version: image.Preset.Agent.Version},
		Kernel: manifest.Kernel{
			Version: image.Kernel.Record.Version, StandIn: p.Base.Kernel.StandIn, CommandLine: p.Base.Kernel.CommandLine,
			Image: image.Kernel.Assets[0], Modules: &image.Kernel.Assets[1],
		},
		Layers:    []manifest.Asset{image.Base.Assets[0], image.Layer.Assets[0]},
		Resources: manifest.Resources{CPUs: r.CPUs, MemoryMiB: r.MemoryMiB, DiskMiB: r.DiskMiB},
	}
}

// putManifest merges the rows into the folder's manifest, and signs and writes it
// unless a valid one says the same already.
func (p Publication) putManifest(rows []manifest.Row) (manifest.Manifest, error) {
	now := p.Now().UTC().Truncate(time.Second)
	old, valid := p.current(now)
	m := manifest.Manifest{
		Schema: manifest.Schema, Serial: max(now.Unix(), old.Serial+1),
		Created: now, Expires: now.Add(lifetime), Rows: mergeRows(old.Rows, rows),
	}
	if valid && reflect.DeepEqual(old.Rows, m.Rows) && old.Expires.Sub(now) > renewal {
		return old, nil
	}
	m.Release = releaseName(m.Rows)
	raw, err := manifest.Encode(m)
	if err != nil {
		return m, fmt.Errorf("write the manifest: %w", err)
	}
	signature, keyID, err := trust.Sign(raw, p.Private)
	if err != nil {
		return m, fmt.Errorf("sign the manifest: %w", err)
	}
	path := filepath.Join(p.Dir, ManifestFile)
	if err := writeAtomically(trust.SignatureFile(path, keyID), signature); err != nil {
		return m, err
	}
	return m, writeAtomically(path, raw)
}

// current reads the manifest that is there; valid tells whether our key signed
// it. One that cannot be read counts as none.
func (p Publication) current(now time.Time) (m manifest.Manifest, valid bool) {
	path := filepath.Join(p.Dir, ManifestFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return manifest.Manifest{}, false
	}
	if m, err = manifest.Parse(raw); err != nil {
		return manifest.Manifest{}, false
	}
	id, err := trust.KeyID(p.Public)
	if err != nil {
		return m, false
	}
	signature, err := os.ReadFile(trust.SignatureFile(path, id))
	if err != nil {
		return m, false
	}
	policy := trust.Policy{Roots: []trust.Root{{Keys: []string{p.Public}, Threshold: 1}}, Development: true, Now: now}
	_, err = policy.Verify(raw, map[string][]byte{id: signature})
	return m, err == nil
}

// mergeRows replaces rows of equal key, keeps the others, and sorts.
func mergeRows(old, fresh []manifest.Row) []manifest.Row {
	same := func(a, b manifest.Row) int {
		return cmp.Or(cmp.Compare(a.Preset, b.Preset), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.VMM, b.VMM))
	}
	rows := slices.Clone(fresh)
	for _, r := range old {
		if !slices.ContainsFunc(fresh, func(f manifest.Row) bool { return same(r, f) == 0 }) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, same)
	return rows
}

// releaseName names a development release by its content.
func releaseName(rows []manifest.Row) string { return "dev-" + contentKey(rows)[:12] }

// writeAtomically replaces a file as a whole, on disk when it returns.
func writeAtomically(path string, raw []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), ".part-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(raw)
	if err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}
