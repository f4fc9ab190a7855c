package release

import (
	"context"
	"strings"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
)

// MirrorOptions say where the bytes come from and who may have written what
// already lies at the destination.
type MirrorOptions struct {
	Options
	Source *fetch.Source
	// Rules are those the catalogue was believed by; their memory is not used.
	Rules resolve.Rules
}

// Mirrored is what Mirror made.
type Mirrored struct {
	Address string `json:"manifest"` // to use with --manifest
	Release string `json:"release"`
	Serial  int64  `json:"serial"`
	Files   int    `json:"files"`  // in the mirror
	Copied  int64  `json:"copied"` // bytes that were not there before
	Bytes   int64  `json:"bytes"`  // of all files
}

// Mirror copies everything that a catalogue's manifest names to a folder or to
// an oci://HOST/REPOSITORY:TAG, the manifest last. What is there already and
// right is not copied again, and nothing is ever replaced by other bytes but a
// manifest by a newer one of the same publisher.
func Mirror(ctx context.Context, c resolve.Catalogue, dest string, o MirrorOptions) (Mirrored, error) {
	if err := mayFetch(c); err != nil {
		return Mirrored{}, err
	}
	content, err := contentOf(c)
	if err != nil {
		return Mirrored{}, err
	}
	m := &mirroring{
		content: content, catalogue: c, o: o,
		places:   o.Source.Mirrors(c.Places, o.sink()),
		progress: newProgress(o.Options, event.Mirror, c.Manifest.Release, content.size()),
	}
	if strings.HasPrefix(dest, "oci://") {
		return m.push(ctx, dest)
	}
	return m.folder(ctx, dest)
}

// mirroring is one copy on its way.
type mirroring struct {
	content   content
	catalogue resolve.Catalogue
	o         MirrorOptions
	places    Places
	progress  *progress
	behind    int64 // bytes of the release that are at the destination
	copied    int64 // of them, those that were not before
}

func (m *mirroring) result(address string) Mirrored {
	m.progress.done()
	return Mirrored{
		Address: address, Release: m.catalogue.Manifest.Release, Serial: m.catalogue.Manifest.Serial,
		Files: len(m.content.assets)*2 + len(m.content.documents) + len(m.content.signed), Copied: m.copied, Bytes: m.content.size(),
	}
}

// content is all that a release consists of.
type content struct {
	assets    []manifest.Asset
	documents []manifest.Blob // bills of materials and build records
	signed    []item          // key lists, signatures, and the manifest last
}

func contentOf(c resolve.Catalogue) (content, error) {
	assets, err := everyAsset(c.Manifest)
	if err != nil {
		return content{}, err
	}
	documents, err := everyDocument(c.Manifest)
	if err != nil {
		return content{}, err
	}
	var lists []item
	for _, file := range c.Document.Keys {
		items, _ := signed(trust.KeyListFile(file.Version), file.Raw, file.Signatures)
		items[0].final = true
		lists = append(lists, lastFirst(items)...)
	}
	items, _ := signed(manifestFile, c.Document.Raw, c.Document.Signatures)
	return content{assets, documents, append(lists, lastFirst(items)...)}, nil
}

// lastFirst puts the signatures before what they sign: a file is there only when
// it can be believed.
func lastFirst(items []item) []item { return append(items[1:len(items):len(items)], items[0]) }

// everyAsset are all files of a manifest, each once.
func everyAsset(m manifest.Manifest) ([]manifest.Asset, error) {
	var assets []manifest.Asset
	seen := map[string]manifest.Digest{}
	for _, row := range m.Rows {
		for _, asset := range assetsOf([]manifest.Row{row}) {
			archive, known := seen[asset.Archive.File]
			index, both := seen[asset.Index.File]
			if !known && !both {
				assets = append(assets, asset)
			} else if known != both || archive != asset.Archive.Digest || index != asset.Index.Digest {
				return nil, fault.New(fault.Trust, publisherHint, "two assets of %s name %s and %s differently",
					m.Release, asset.Archive.File, asset.Index.File)
			}
			seen[asset.Archive.File], seen[asset.Index.File] = asset.Archive.Digest, asset.Index.Digest
		}
	}
	return assets, nil
}

// everyDocument are the files that describe images, each once.
func everyDocument(m manifest.Manifest) ([]manifest.Blob, error) {
	var documents []manifest.Blob
	seen := map[string]manifest.Digest{}
	for _, row := range m.Rows {
		for _, blob := range row.Documents() {
			known, there := seen[blob.File]
			switch {
			case !there:
				seen[blob.File] = blob.Digest
				documents = append(documents, blob)
			case known != blob.Digest:
				return nil, fault.New(fault.Trust, publisherHint, "two rows of %s name %s differently", m.Release, blob.File)
			}
		}
	}
	return documents, nil
}

func (c content) size() int64 {
	var size int64
	for _, asset := range c.assets {
		size += asset.Archive.Size + asset.Index.Size
	}
	for _, blob := range c.documents {
		size += blob.Size
	}
	for _, item := range c.signed {
		size += int64(len(item.data))
	}
	return size
}
