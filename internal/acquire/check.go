package acquire

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/store"
)

// Check tells whether the files of an image that was acquired earlier are still
// the verified ones, for a sandbox that starts again. It costs a few system
// calls. A file that was touched is verified byte by byte, and repaired from the
// places, if there are any: frame digests, which the sandbox's record has fixed,
// are all that is needed to trust what comes from there.
func (a *Acquirer) Check(ctx context.Context, image record.Image) error {
	paths := []string{image.Kernel}
	if image.Modules != "" {
		paths = append(paths, image.Modules)
	}
	for _, layer := range image.Layers {
		paths = append(paths, layer.Path)
	}
	var doubtful []manifest.Asset
	for _, path := range paths {
		object, err := a.find(ctx, path, image.Address)
		if err != nil {
			return err
		}
		if object.State != store.Ready {
			doubtful = append(doubtful, assetOf(object))
		}
	}
	if len(doubtful) == 0 {
		return nil
	}
	if err := a.bring(ctx, doubtful, Options{}, func() error { return a.mayRepair(ctx, doubtful, image.Address) }); err != nil {
		err = a.store.Explain(fmt.Errorf("check the files of the sandbox: %w", err))
		if code := fault.CodeOf(err); code == fault.Network || code == fault.NotFound { // nobody has what would repair it
			return fault.New(code, fault.HintOf(altered("", image.Address)), "%w", err)
		}
		return err
	}
	return nil
}

// find looks up the object that a path of a record is of.
func (a *Acquirer) find(ctx context.Context, path, address string) (store.Object, error) {
	key := filepath.Base(filepath.Dir(path))
	if !manifest.IsSHA256(key) {
		return store.Object{}, fmt.Errorf("check %s: not a file of the store", path)
	}
	object, err := a.store.Lookup(ctx, key)
	switch {
	case err != nil:
		return object, err
	case object.Path != path:
		return object, fmt.Errorf("check %s: not a file of the store %s", path, a.store.Home())
	case object.State == store.Absent:
		gone := fault.New(fault.NotFound, fault.HintOf(altered(path, address)), "check %s: it is gone", path)
		return object, gone
	case object.State == store.Doubtful && !usable(object.Origin):
		return object, altered(path, address)
	}
	return object, nil
}

// mayRepair refuses where nobody is known to have the files.
func (a *Acquirer) mayRepair(ctx context.Context, assets []manifest.Asset, address string) error {
	if a.places != nil {
		return nil
	}
	var paths []string
	for _, asset := range assets {
		object, err := a.store.Lookup(ctx, asset.Index.SHA256)
		if err == nil && object.State != store.Ready {
			paths = append(paths, object.Path)
		}
	}
	return altered(strings.Join(paths, ", "), address)
}

// usable is whether an object's record names files that could be asked for.
func usable(o store.Origin) bool {
	return fs.ValidPath(o.Name) && !strings.ContainsAny(o.Name, `/\`) && manifest.IsSHA256(o.Archive.SHA256)
}

// assetOf is the asset that an object was made of. Its index is known by its
// digest alone.
func assetOf(object store.Object) manifest.Asset {
	o := object.Origin
	return manifest.Asset{
		Name:    o.Name,
		Archive: manifest.Blob{File: manifest.FileName(o.Name, o.Archive.SHA256, ".zst"), Digest: o.Archive},
		Index:   manifest.Blob{File: manifest.FileName(o.Name, object.Key, ".index.json"), Digest: manifest.Digest{SHA256: object.Key}},
		Content: o.Content,
	}
}
