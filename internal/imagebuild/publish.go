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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
)

// ManifestFile is the manifest's name in a published folder.
const ManifestFile = "manifest.json"

// Publication is a folder of published images and the keys that sign for it.
type Publication struct {
	Dir     string   // absolute
	Signers []Signer // all of them sign
	Private string   // of one signer more; empty: none
	Public  string
	// Unsigned leaves a folder that nobody believes until its manifest is signed.
	Unsigned bool
	// Release names the manifest's release; empty: by its content.
	Release string
	// Mirrors are folders with the same files, which the manifest then names. Nil:
	// those that the folder's manifest names already.
	Mirrors []string
	VMMs    []string
	Base    Base
	Now     func() time.Time
	Sink    event.Sink

	shown string // what messages call Dir; empty: its path
}

// where is what messages call the place.
func (p Publication) where() string { return cmp.Or(p.shown, p.Dir) }

// Publish adds the images to the folder: assets under names that hold their
// digests, then the signatures and the manifest. Rows of other images stay, and so
// do key lists. A file that exists under an asset's name must hold exactly its
// bytes. When nothing changed, the signed manifest that is there is kept.
func (p Publication) Publish(ctx context.Context, images []Image) (manifest.Manifest, error) {
	m, err := p.publish(ctx, images)
	return m, stored(p.Dir, "The same command goes on from there.", err)
}

func (p Publication) publish(ctx context.Context, images []Image) (manifest.Manifest, error) {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return manifest.Manifest{}, fault.New(fault.Storage, "", "make the published folder: %w", err)
	}
	lock, err := lockFolder(ctx, p.Dir, p.Sink)
	if err != nil {
		return manifest.Manifest{}, err
	}
	defer lock.Close()
	if err := p.checkSigners(); err != nil {
		return manifest.Manifest{}, err
	}
	for _, image := range images {
		if err := p.putImage(ctx, image); err != nil {
			return manifest.Manifest{}, err
		}
	}
	rows, err := p.rows(images)
	if err != nil {
		return manifest.Manifest{}, err
	}
	return p.putManifest(rows)
}

// lockFolder keeps every other writer out of a published folder until the file is
// closed.
func lockFolder(ctx context.Context, dir string, sink event.Sink) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.New(fault.Storage, "", "lock the published folder: %w", err)
	}
	return lock, lockFile(ctx, lock, sink, dir)
}

func (p Publication) putImage(ctx context.Context, image Image) error {
	for _, file := range image.published() {
		if err := p.putAsset(ctx, file.path, file.Blob); err != nil {
			return fmt.Errorf("publish %s: %w", file.File, err)
		}
	}
	documents, err := documentsOf(image)
	if err != nil {
		return err
	}
	for _, d := range documents {
		if err := p.putDocument(ctx, d); err != nil {
			return fmt.Errorf("publish %s: %w", d.File, err)
		}
	}
	return nil
}

// document is a small file that describes an image.
type document struct {
	manifest.Blob
	raw []byte
}

// documentsOf are the bill of materials and the build record of an image, in this
// order.
func documentsOf(image Image) ([2]document, error) {
	steps, err := json.MarshalIndent(image.steps(), "", "  ")
	if err != nil {
		return [2]document{}, err
	}
	name := image.Preset.Name + "-" + image.Arch
	return [2]document{
		{blob("sbom-"+name, ".spdx.json", image.SBOM), image.SBOM},
		{blob("build-"+name, ".json", steps), steps},
	}, nil
}

// putDocument writes one, unless it is there.
func (p Publication) putDocument(ctx context.Context, d document) error {
	to := filepath.Join(p.Dir, d.File)
	there, err := p.isThere(ctx, to, d.Blob)
	if err != nil || there {
		return err
	}
	return writeAtomically(to, d.raw)
}

// putAsset copies one file into the folder, checking its digest on the way.
func (p Publication) putAsset(ctx context.Context, from string, blob manifest.Blob) error {
	to := filepath.Join(p.Dir, blob.File)
	there, err := p.isThere(ctx, to, blob)
	if err != nil || there {
		return err
	}
	temp, err := os.CreateTemp(p.Dir, ".part-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	digest, err := fileDigest(ctx, from, temp)
	if err != nil {
		return err
	}
	if digest != blob.Digest {
		return damaged(from)
	}
	return place(temp, to)
}

func damaged(path string) error {
	return fault.New(fault.Storage, "Remove the build cache and build again.", "%s in the build cache is damaged", path)
}

// isThere compares a published file with its digest. Other bytes are an error.
func (p Publication) isThere(ctx context.Context, path string, blob manifest.Blob) (bool, error) {
	digest, err := fileDigest(ctx, path, io.Discard)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && digest != blob.Digest {
		err = fault.New(fault.Conflict, "Published files are never replaced. Remove it if it is damaged.",
			"%s is there with other bytes (SHA-256 %s)", path, digest.SHA256)
	}
	return err == nil, err
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
func (p Publication) rows(images []Image) ([]manifest.Row, error) {
	var rows []manifest.Row
	for _, image := range images {
		documents, err := documentsOf(image)
		if err != nil {
			return nil, err
		}
		for _, vmm := range p.VMMs {
			rows = append(rows, p.row(image, vmm, documents))
		}
	}
	return rows, nil
}

func (p Publication) row(image Image, vmm string, documents [2]document) manifest.Row {
	row := rowOf(image.Preset, image.Arch, p.kernel(image.Kernel), image.Base.Assets[0], image.Layer.Assets[0])
	row.VMM, row.SBOM, row.Build = vmm, &documents[0].Blob, &documents[1].Blob
	return row
}

// kernel describes our own kernel, or the one that stands in and has modules.
func (p Publication) kernel(a Archived) manifest.Kernel {
	k := manifest.Kernel{Version: a.Record.Version, CommandLine: p.Base.Kernel.OwnCommandLine, Image: a.Assets[0]}
	k.Source, _, _ = strings.Cut(a.Record.Source, "\n")
	if len(a.Assets) > 1 {
		k.StandIn, k.CommandLine, k.Modules = p.Base.Kernel.StandIn, p.Base.Kernel.CommandLine, &a.Assets[1]
	}
	return k
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
