package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch/oci"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// Registry holds releases under tags, each visible as a whole or not at all.
type Registry interface {
	// Names are the files of a release. Nothing there is fs.ErrNotExist.
	Names(ctx context.Context, reference string) ([]string, error)
	Get(ctx context.Context, address string, limit int64) ([]byte, error)
	// Push sends the files that are not there and then makes the tag name all of them.
	Push(ctx context.Context, reference string, files []oci.File, progress func(file string, done, total int64)) error
}

// PublishTo is Publish, signed, into a registry, straight from the build cache. Rows of
// other images stay if one of the signers signed them: a registry is not the
// publisher's own disk, and nobody signs what others have put there. Two that
// publish to one tag at once are not kept apart: a registry has no lock.
func (p Publication) PublishTo(ctx context.Context, registry Registry, reference string, images []Image) (manifest.Manifest, error) {
	desk, err := os.MkdirTemp("", "smolvm-publish-")
	if err != nil {
		return manifest.Manifest{}, fault.New(fault.Storage, "TMPDIR names another folder.", "publish to %s: %w", reference, err)
	}
	defer os.RemoveAll(desk)
	p.Dir, p.shown = desk, reference
	if err := p.checkSigners(); err != nil { // before anything is asked for
		return manifest.Manifest{}, err
	}
	if err := p.fetchSigned(ctx, registry, reference); err != nil {
		return manifest.Manifest{}, err
	}
	if err := p.checkSigners(); err != nil {
		return manifest.Manifest{}, err
	}
	rows, err := p.rows(images)
	if err != nil {
		return manifest.Manifest{}, err
	}
	m, err := p.putManifest(rows)
	if err != nil {
		return m, err
	}
	files, err := p.release(ctx, m, images)
	if err != nil {
		return m, err
	}
	return m, p.push(ctx, registry, reference, files)
}

// pushTold is how often progress is told at most.
const pushTold = 200 * time.Millisecond

func (p Publication) push(ctx context.Context, registry Registry, reference string, files []oci.File) error {
	var total, sum int64
	for _, f := range files {
		total += f.Size
	}
	done := event.Span(p.Sink, p.Now, event.Publish, reference)
	told, behind := p.Now(), map[string]int64{}
	err := registry.Push(ctx, reference, files, func(file string, at, _ int64) {
		sum += at - behind[file]
		behind[file] = at
		if now := p.Now(); now.Sub(told) >= pushTold {
			told = now
			p.Sink.Emit(event.Event{Time: now, Kind: event.Progress, Stage: event.Publish, Object: reference, Bytes: sum, Total: total})
		}
	})
	if err == nil {
		done(total)
	}
	return err
}

// fetchSigned brings what is signed in a release to the desk: its manifest and all
// key lists, with their signatures.
func (p Publication) fetchSigned(ctx context.Context, registry Registry, reference string) error {
	names, err := registry.Names(ctx, reference)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for a manifest at %s: %w", reference, err)
	}
	if !slices.Contains(names, ManifestFile) {
		return fault.New(fault.Conflict, "Choose another tag.", "publish to %s: something else than a release is there", reference)
	}
	for _, name := range names {
		limit := signedLimit(name)
		if limit == 0 {
			continue
		}
		raw, err := registry.Get(ctx, oci.Beside(reference, name), limit)
		if err == nil {
			err = os.WriteFile(filepath.Join(p.Dir, name), raw, 0o644)
		}
		if err != nil {
			return fmt.Errorf("read %s at %s: %w", name, reference, err)
		}
	}
	return p.ownManifest(reference)
}

// ownManifest refuses rows that none of the signers has signed.
func (p Publication) ownManifest(reference string) error {
	old, err := readPublished(p.Dir)
	if err != nil {
		return err
	}
	if old.raw != nil && !slices.ContainsFunc(p.signers(), func(s Signer) bool { return s.signed(old.raw, old.signatures) }) {
		return fault.New(fault.Conflict, "Choose another tag, or sign with a key that signed it.",
			"publish to %s: none of the keys that were given has signed the manifest that is there", reference)
	}
	return nil
}

// signedLimit bounds a file that is signed or a signature, in bytes; 0: it is none.
func signedLimit(name string) int64 {
	stem, signature := name, strings.HasSuffix(name, ".minisig")
	if signature {
		stem = strings.TrimSuffix(name, ".minisig")
		stem = strings.TrimSuffix(stem, filepath.Ext(stem)) // the key's id
	}
	var n int
	_, err := fmt.Sscanf(stem, "keys-%d.json", &n)
	list := err == nil && stem == trust.KeyListFile(n)
	switch {
	case !list && stem != ManifestFile, filepath.Base(name) != name:
		return 0
	case signature:
		return trust.MaxSignature
	case list:
		return trust.MaxKeyList
	}
	return manifest.MaxSize
}

// release is everything that the manifest names and what is on the desk, which
// comes last.
func (p Publication) release(ctx context.Context, m manifest.Manifest, images []Image) ([]oci.File, error) {
	here, err := sources(ctx, images)
	if err != nil {
		return nil, err
	}
	var files []oci.File
	seen := map[string]bool{}
	for _, blob := range namedBy(m) {
		if seen[blob.File] {
			continue
		}
		seen[blob.File] = true
		open := here[blob.File]
		if open == nil {
			open = func() (io.ReadCloser, error) {
				return nil, fault.New(fault.NotFound, "Publish the image that it belongs to again.", "%s is neither in the registry nor here", blob.File)
			}
		}
		files = append(files, oci.File{Name: blob.File, Size: blob.Size, SHA256: blob.SHA256, Open: open})
	}
	signed, err := p.onDesk()
	return append(files, signed...), err
}

// namedBy are the files that a manifest names, some more than once.
func namedBy(m manifest.Manifest) (blobs []manifest.Blob) {
	for _, row := range m.Rows {
		for _, a := range row.Assets() {
			blobs = append(blobs, a.Index, a.Archive)
		}
		blobs = append(blobs, row.Documents()...)
	}
	return blobs
}

// sources say where the images' files are.
func sources(ctx context.Context, images []Image) (map[string]func() (io.ReadCloser, error), error) {
	here := map[string]func() (io.ReadCloser, error){}
	for _, image := range images {
		for _, file := range image.published() {
			here[file.File] = func() (io.ReadCloser, error) { return openIntact(ctx, file.path, file.Blob) }
		}
		documents, err := documentsOf(image)
		if err != nil {
			return nil, err
		}
		for _, d := range documents {
			here[d.File] = inMemory(d.raw)
		}
	}
	return here, nil
}

func inMemory(raw []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

// openIntact opens a file of the build cache whose bytes are those it had.
func openIntact(ctx context.Context, path string, blob manifest.Blob) (io.ReadCloser, error) {
	digest, err := fileDigest(ctx, path, io.Discard)
	if err != nil {
		return nil, err
	}
	if digest != blob.Digest {
		return nil, damaged(path)
	}
	return os.Open(path)
}

// onDesk are the signed files, the manifest last.
func (p Publication) onDesk() ([]oci.File, error) {
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return nil, err
	}
	var files []oci.File
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(p.Dir, e.Name()))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(raw)
		files = append(files, oci.File{Name: e.Name(), Size: int64(len(raw)), SHA256: hex.EncodeToString(sum[:]), Open: inMemory(raw)})
	}
	last := func(f oci.File) int {
		if f.Name == ManifestFile {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(files, func(a, b oci.File) int { return last(a) - last(b) })
	return files, nil
}
