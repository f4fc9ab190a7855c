package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/unpack"
)

// Saved is what Save wrote.
type Saved struct {
	Address string  `json:"manifest"` // of the catalogue, as the tar names it
	Release string  `json:"release"`
	Serial  int64   `json:"serial"`
	Images  []Image `json:"images"`
	Bytes   int64   `json:"bytes"` // of the tar
}

// Save writes images of a catalogue that are here to dst as one tar. The same
// images of the same manifest always give the same bytes. After an error dst
// holds something that Load refuses.
func Save(ctx context.Context, st *store.Store, c resolve.Catalogue, images []Image, dst io.Writer, o Options) (Saved, error) {
	s, err := newSaving(ctx, st, c, images, o)
	if err != nil {
		return Saved{}, err
	}
	return s.finish(s.write(ctx, dst))
}

// SaveFile is Save to a file, which appears when it is complete and on disk.
func SaveFile(ctx context.Context, st *store.Store, c resolve.Catalogue, images []Image, path string, o Options) (Saved, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Saved{}, fmt.Errorf("find %s: %w", path, err)
	}
	if err := MayWrite(path); err != nil {
		return Saved{}, err
	}
	s, err := newSaving(ctx, st, c, images, o)
	if err != nil {
		return Saved{}, err
	}
	return s.finish(explain(filepath.Dir(path), s.writeFile(ctx, path)))
}

// saving is one tar on its way.
type saving struct {
	store     *store.Store
	catalogue resolve.Catalogue
	images    []Image
	lease     *store.Lease
	assets    []source
	items     []item // all that comes before the frames
	size      int64  // of the tar
	progress  *progress
}

// source is an asset that is here.
type source struct {
	asset manifest.Asset
	index unpack.Index
	path  string
}

// newSaving finds everything out before the first byte is written, and holds it.
func newSaving(ctx context.Context, st *store.Store, c resolve.Catalogue, images []Image, o Options) (*saving, error) {
	s := &saving{store: st, catalogue: c, images: sorted(images)}
	rows, err := rowsOf(c, s.images)
	if err != nil {
		return nil, err
	}
	assets := assetsOf(rows)
	if s.lease, err = st.Lease(ctx, "image save", keysOf(assets)); err != nil {
		return nil, err
	}
	if err := s.collect(ctx, assets); err != nil {
		return nil, errors.Join(err, s.lease.Release())
	}
	s.progress = newProgress(o, event.Save, title(s.images), s.size)
	return s, nil
}

func (s *saving) collect(ctx context.Context, assets []manifest.Asset) error {
	head, err := s.head()
	if err != nil {
		return err
	}
	s.items = head
	var indexes int64
	for _, asset := range assets {
		raw, err := s.find(ctx, asset)
		if err != nil {
			return fmt.Errorf("save %s: %w", asset.Name, err)
		}
		indexes += int64(len(raw))
		s.items = append(s.items, item{name: indexEntry(asset.Index.SHA256), data: raw})
	}
	if indexes > maxIndexes {
		return fault.New(fault.Usage, "Save fewer images at a time.", "the images' indexes have %d bytes, at most %d fit into a tar", indexes, maxIndexes)
	}
	s.size = s.measure()
	return nil
}

// head is the list, and the files that are signed.
func (s *saving) head() ([]item, error) {
	doc := s.catalogue.Document
	l := list{Schema: listSchema, Manifest: handedOn(s.catalogue.Address), KeyLists: []keysFile{}, Images: s.images}
	items, signers := signed(manifestFile, doc.Raw, doc.Signatures)
	l.Signers = signers
	for _, file := range doc.Keys {
		more, signers := signed(trust.KeyListFile(file.Version), file.Raw, file.Signatures)
		items = append(items, more...)
		l.KeyLists = append(l.KeyLists, keysFile{file.Version, signers})
	}
	raw, err := l.encode()
	if err != nil {
		return nil, err
	}
	return append([]item{{name: listFile, data: raw}}, items...), l.validate()
}

// find looks an asset up and returns its index. A doubtful one will do: every
// byte is compared while it is read.
func (s *saving) find(ctx context.Context, asset manifest.Asset) ([]byte, error) {
	object, err := s.store.Lookup(ctx, asset.Index.SHA256)
	if err != nil {
		return nil, err
	}
	if object.State == store.Absent {
		return nil, fault.New(fault.NotFound, "Fetch it first with `smolvm image pull`.", "it is not here in release %s", s.catalogue.Manifest.Release)
	}
	raw, err := s.store.Index(asset.Index.SHA256)
	if err != nil {
		return nil, fault.New(fault.Trust, repairHint, "%w", err)
	}
	index, err := unpack.ParseIndex(raw)
	if err != nil {
		return nil, fault.New(fault.Trust, repairHint, "%w", err)
	}
	s.assets = append(s.assets, source{asset, index, object.Path})
	return raw, nil
}

// measure is the length of the tar, so that a full disk is known beforehand.
func (s *saving) measure() int64 {
	size := int64(2 * blockSize)
	for _, item := range s.items {
		size += entrySize(int64(len(item.data)))
	}
	for _, frame := range framesOf(s.indexes()) {
		size += entrySize(frame.size)
	}
	return size
}

func (s *saving) indexes() []unpack.Index {
	indexes := make([]unpack.Index, len(s.assets))
	for i, source := range s.assets {
		indexes[i] = source.index
	}
	return indexes
}

// finish reports and lets go of what was held.
func (s *saving) finish(err error) (Saved, error) {
	if err := errors.Join(err, s.lease.Release()); err != nil {
		return Saved{}, fmt.Errorf("save %s: %w", title(s.images), err)
	}
	s.progress.done()
	m := s.catalogue.Manifest
	return Saved{handedOn(s.catalogue.Address), m.Release, m.Serial, s.images, s.size}, nil
}

// writeFile lets the tar grow beside its place. What a killed run left there is
// overwritten: it is never used.
func (s *saving) writeFile(ctx context.Context, path string) error {
	part, err := openPart(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part"))
	if err != nil {
		return err
	}
	if err = part.Truncate(0); err == nil {
		err = reserve(filepath.Dir(path), s.size)
	}
	if err == nil {
		err = s.write(ctx, part)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part.Name()), part.Close())
	}
	return place(part, path)
}
