package acquire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/unpack"
)

// Check tells whether the files of an image that was acquired earlier are still
// the verified ones, for a sandbox that starts again. It costs a few system
// calls; a file that was touched is verified byte by byte.
func (a *Acquirer) Check(ctx context.Context, image record.Image) error {
	paths := []string{image.Kernel}
	if image.Modules != "" {
		paths = append(paths, image.Modules)
	}
	for _, layer := range image.Layers {
		paths = append(paths, layer.Path)
	}
	for _, path := range paths {
		if err := a.checkPath(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

func (a *Acquirer) checkPath(ctx context.Context, path string) error {
	key := filepath.Base(filepath.Dir(path))
	if !manifest.IsSHA256(key) {
		return fmt.Errorf("check %s: not a file of the store", path)
	}
	object, err := a.store.Lookup(ctx, key)
	switch {
	case err != nil:
		return err
	case object.Path != path:
		return fmt.Errorf("check %s: not a file of the store %s", path, a.store.Home())
	case object.State == store.Ready:
		return nil
	case object.State == store.Absent:
		return fault.New(fault.NotFound, pullHint, "check %s: it is gone", path)
	}
	claim, err := a.store.Claim(ctx, key, nil)
	if err != nil {
		return err
	}
	ok, err := a.reverify(ctx, key, object.Origin, claim)
	if err == nil && !ok {
		err = altered(path)
	}
	return errors.Join(err, claim.Release())
}

// inspect looks at a claimed asset: absent means that it has to be fetched. A
// file that is not what it was is removed.
func (a *Acquirer) inspect(ctx context.Context, step resolve.Step, claim *store.Claim) (absent bool, err error) {
	asset := step.Asset
	object, err := a.store.Lookup(ctx, asset.Index.SHA256)
	if err != nil || object.State == store.Absent {
		return err == nil, err
	}
	if object.State == store.Ready {
		return false, claim.Release() // another process brought it
	}
	origin := store.Origin{Name: asset.Name, Archive: asset.Archive.Digest, Content: asset.Content}
	ok, err := a.reverify(ctx, asset.Index.SHA256, origin, claim)
	if err != nil || ok {
		return false, err
	}
	a.warn("%s was altered on disk: it is removed and fetched again", object.Path)
	return true, claim.Drop(ctx)
}

// reverify reads every byte of an object that was touched. An error means that
// it could not be read to the end; not ok that it is not what it was.
func (a *Acquirer) reverify(ctx context.Context, key string, origin store.Origin, claim *store.Claim) (ok bool, err error) {
	raw, err := a.store.Index(key)
	if err != nil {
		return false, nil //nolint:nilerr // without its index it cannot be verified
	}
	index, err := unpack.ParseIndex(raw)
	if err != nil {
		return false, nil //nolint:nilerr // as above
	}
	file, identity, err := claim.Open()
	if err != nil {
		return false, nil //nolint:nilerr // a link, a device, gone
	}
	defer file.Close()
	a.emit(event.Event{Kind: event.Notice, Stage: event.Store, Object: origin.Name, Text: fmt.Sprintf("%s was touched: verifying it", file.Name())})
	bad, err := unpack.Verify(ctx, index, file)
	switch {
	case errors.Is(err, unpack.ErrDigest) || len(bad) > 0:
		return false, nil
	case err != nil:
		return false, err
	}
	object, err := claim.Settle(ctx, origin, identity)
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return false, err
	}
	return err == nil && object.State == store.Ready, nil
}

const pullHint = "Fetch it again with `smolvm image pull PRESET`, from the catalogue that it came from."

func altered(path string) error {
	return fault.New(fault.Trust, pullHint, "check %s: its bytes are not those that were verified; it is not booted", path)
}
