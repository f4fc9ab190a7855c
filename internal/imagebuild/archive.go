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
	"slices"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/unpack"
)

// archiveKind is the kind of a result's published form.
func archiveKind(kind string) string { return kind + "-archive" }

// bestKind is the kind of that form in the fewest bytes, which serves whoever
// wants the other one, too.
func bestKind(kind string) string { return archiveKind(kind) + "-best" }

// assetsFile lists the assets in an archive folder.
const assetsFile = "assets.json"

// archived is the folder of a step's published form, whether it is there or not.
func (b *Builder) archived(s Step) (kind string, there bool) {
	if best := bestKind(s.Kind); b.best || b.cache.has(best, s.Key) {
		return best, b.cache.has(best, s.Key)
	}
	kind = archiveKind(s.Kind)
	return kind, b.cache.has(kind, s.Key)
}

// archive compresses the files of a step's result, each into frames and an
// index, named by content. A preset's layer is dropped once this is done: only
// the base is needed expanded again. A step of one asset keeps its file as
// "content", others under the assets' names.
func (b *Builder) archive(ctx context.Context, s Step, names ...string) (Archived, error) {
	kind, there := b.archived(s)
	if !there {
		if err := b.compress(ctx, s, kind, names); err != nil {
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

// compress makes the published form of a kind.
func (b *Builder) compress(ctx context.Context, s Step, kind string, names []string) error {
	work, err := b.cache.work(kind)
	if err != nil {
		return err
	}
	encode, encoder := b.encoder(ctx)
	var assets []manifest.Asset
	for _, name := range names {
		src, err := b.source(ctx, s, name)
		if err != nil {
			return fmt.Errorf("compress %s: %w", name, err)
		}
		done := event.Span(b.sink, b.now, event.Publish, name)
		asset, err := compressFile(ctx, name, src, work, encode)
		src.Close()
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
	rec, err := b.recordOf(s)
	if err != nil {
		return err
	}
	rec.Tools = append(rec.Tools, encoder)
	if err := writeRecord(work, rec); err != nil {
		return err
	}
	return b.cache.commit(work, kind, s.Key)
}

// source opens one expanded file of a step's result. Of a preset's layer only the
// archive may be left.
func (b *Builder) source(ctx context.Context, s Step, name string) (*os.File, error) {
	file, err := os.Open(filepath.Join(b.cache.path(s.Kind, s.Key), name))
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	file, err = os.Open(filepath.Join(b.cache.path(s.Kind, s.Key), contentFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	a, err := readArchive(b.cache.path(archiveKind(s.Kind), s.Key))
	if err != nil {
		return nil, err
	}
	return b.expand(ctx, a)
}

// recordOf is the build record of a step's result, or of its archive.
func (b *Builder) recordOf(s Step) (Record, error) {
	rec, err := readRecord(b.cache.path(s.Kind, s.Key))
	if !errors.Is(err, fs.ErrNotExist) {
		return rec, err
	}
	if rec, err = readRecord(b.cache.path(archiveKind(s.Kind), s.Key)); err != nil {
		return rec, err
	}
	rec.Tools = slices.DeleteFunc(rec.Tools, func(t Tool) bool { return t.Name == encoderName })
	return rec, nil
}

// compressFile leaves the archive and the index of one file in dir.
func compressFile(ctx context.Context, name string, src *os.File, dir string, encode unpack.Encode) (manifest.Asset, error) {
	info, err := src.Stat()
	if err != nil {
		return manifest.Asset{}, err
	}
	asset := manifest.Asset{Name: name}
	var index unpack.Index
	unnamed := filepath.Join(dir, name+".part")
	err = createFile(unnamed, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 1<<20)
		index, asset.Archive.Digest, asset.Content, err = unpack.CompressWith(ctx, src, info.Size(), w, encode)
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
