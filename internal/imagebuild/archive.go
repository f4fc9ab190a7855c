package imagebuild

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
)

// archiveKind is the kind of a result's published form.
func archiveKind(kind string) string { return kind + "-archive" }

// assetsFile lists the assets in an archive folder.
const assetsFile = "assets.json"

// archive compresses the files of a step's result, each into frames and an
// index, named by content. A preset's layer is dropped once this is done: only
// the base is needed expanded again. A step of one asset keeps its file as
// "content", others under the assets' names.
func (b *Builder) archive(ctx context.Context, s Step, names ...string) (Archived, error) {
	kind := archiveKind(s.Kind)
	if !b.cache.has(kind, s.Key) {
		if err := b.compress(ctx, s, names); err != nil {
			return Archived{}, err
		}
	}
	if s.Kind == kindLayer {
		if err := os.RemoveAll(b.cache.path(s.Kind, s.Key)); err != nil {
			return Archived{}, err
		}
	}
	return readArchive(b.cache.path(kind, s.Key))
}

func readArchive(dir string) (Archived, error) {
	a := Archived{Dir: dir}
	raw, err := os.ReadFile(filepath.Join(dir, assetsFile))
	if err == nil {
		err = json.Unmarshal(raw, &a.Assets)
	}
	if err != nil {
		return a, fmt.Errorf("read the build cache's %s: %w", dir, err)
	}
	a.Record, err = readRecord(dir)
	return a, err
}

func (b *Builder) compress(ctx context.Context, s Step, names []string) error {
	from := b.cache.path(s.Kind, s.Key)
	work, err := b.cache.work(archiveKind(s.Kind))
	if err != nil {
		return err
	}
	var assets []manifest.Asset
	for _, name := range names {
		file := filepath.Join(from, name)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			file = filepath.Join(from, contentFile)
		}
		done := event.Span(b.sink, b.now, event.Publish, name)
		asset, err := compressFile(ctx, name, file, work)
		if err != nil {
			return fmt.Errorf("compress %s: %w", name, err)
		}
		done(asset.Archive.Size)
		assets = append(assets, asset)
	}
	raw, err := json.MarshalIndent(assets, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, assetsFile), raw, 0o644); err != nil {
		return err
	}
	rec, err := readRecord(from)
	if err != nil {
		return err
	}
	if err := writeRecord(work, rec); err != nil {
		return err
	}
	return b.cache.commit(work, archiveKind(s.Kind), s.Key)
}

// compressFile leaves the archive and the index of one file in dir.
func compressFile(ctx context.Context, name, path, dir string) (manifest.Asset, error) {
	src, err := os.Open(path)
	if err != nil {
		return manifest.Asset{}, err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return manifest.Asset{}, err
	}
	asset := manifest.Asset{Name: name}
	var index unpack.Index
	unnamed := filepath.Join(dir, name+".part")
	err = createFile(unnamed, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 1<<20)
		index, asset.Archive.Digest, asset.Content, err = unpack.Compress(ctx, src, info.Size(), w)
		if err != nil {
			return err
		}
		return w.Flush()
	})
	if err != nil {
		return asset, err
	}
	asset.Archive.File = manifest.FileName(name, asset.Archive.SHA256, ".zst")
	if err := os.Rename(unnamed, filepath.Join(dir, asset.Archive.File)); err != nil {
		return asset, err
	}
	raw, err := index.Encode()
	if err != nil {
		return asset, err
	}
	asset.Index = blob(name, ".index.json", raw)
	return asset, createFile(filepath.Join(dir, asset.Index.File), func(f *os.File) error {
		_, err := bytes.NewReader(raw).WriteTo(f)
		return err
	})
}

// blob names small bytes by their content.
func blob(name, extension string, raw []byte) manifest.Blob {
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	return manifest.Blob{
		File:   manifest.FileName(name, digest, extension),
		Digest: manifest.Digest{SHA256: digest, Size: int64(len(raw))},
	}
}
