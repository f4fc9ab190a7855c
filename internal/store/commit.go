package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Commit adopts the file of Partial, whose every byte the caller has
// verified against index, as the object, and the file of Archive, if it was asked
// for under this claim, as the archive that is kept. An object that is there is
// replaced; its archive stays unless there is a new one. Images that show the
// object show the new one.
//
// After a failure the partial is still there for another try.
func (c *Claim) Commit(ctx context.Context, origin Origin, index []byte) (Object, error) {
	if c.content == nil {
		return Object{}, fmt.Errorf("store %s: nothing was created", origin.Name)
	}
	if !keyIs(c.key, index) {
		return Object{}, fmt.Errorf("store %s: its index has another digest than %.12s", origin.Name, c.key)
	}
	if err := c.commit(ctx, origin, index); err != nil {
		return Object{}, fmt.Errorf("store %s: %w", origin.Name, err)
	}
	return c.store.look(c.key), nil
}

func (c *Claim) commit(ctx context.Context, origin Origin, index []byte) error {
	names, err := c.seal()
	if err != nil {
		return err
	}
	if err := c.describe(origin, index, names); err != nil {
		return err
	}
	return c.store.retiring(ctx, func(b *bin) error { return c.publish(b, names) })
}

// seal makes content and archive read-only, waits for the disk, and returns the
// names of those that are there.
func (c *Claim) seal() (names []string, err error) {
	content, archive := c.content, c.archive
	c.content, c.archive = nil, nil
	names = []string{contentFile}
	err = c.store.finish(content, 0o444)
	if archive != nil {
		names = append(names, archiveFile)
		err = errors.Join(err, c.store.finish(archive, 0o444))
	}
	return names, errors.Join(err, c.progress.close(false))
}

// describe writes index and record beside the content, and removes everything
// else from the folder, which is then what the object's will be.
func (c *Claim) describe(origin Origin, index []byte, names []string) error {
	dir := c.partial()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !slices.Contains(names, entry.Name()) {
			if err := c.store.removeAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := c.store.writeFile(filepath.Join(dir, indexFile), index, 0o444); err != nil {
		return err
	}
	identity, err := identify(filepath.Join(dir, contentFile))
	if err != nil {
		return err
	}
	identity.settle()
	raw, err := json.MarshalIndent(record{schema, origin, identity}, "", " ")
	if err != nil {
		return err
	}
	if err := c.store.writeFile(filepath.Join(dir, recordFile), append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chmod(dir, 0o755), c.store.syncDir(dir))
}

// publish moves the finished folder to its place, under the store's lock. What is
// there goes away first; a crash between the two leaves the object absent and the
// partial complete.
func (c *Claim) publish(b *bin, names []string) error {
	s, to := c.store, c.store.folder(c.key)
	if err := s.refuseNewer(c.key); err != nil {
		return err
	}
	if !slices.Contains(names, archiveFile) {
		if err := s.moveArchive(to, c.partial()); err != nil {
			return err
		}
	}
	if err := b.retire(to); err != nil {
		return err
	}
	if err := s.rename(c.partial(), to); err != nil {
		return err
	}
	if err := errors.Join(s.syncDir(s.objects), s.syncDir(s.partials)); err != nil {
		return err
	}
	s.showAgain(c.key, b)
	return nil
}

// moveArchive moves a kept archive from one object's folder to another.
func (s *Store) moveArchive(from, to string) error {
	path := filepath.Join(from, archiveFile)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return nil //nolint:nilerr // there is none
	}
	if err := s.rename(path, filepath.Join(to, archiveFile)); err != nil {
		return err
	}
	return errors.Join(s.syncDir(to), s.syncDir(from))
}

// KeepArchive adopts the file of Archive for an object that is there already. The
// caller has verified its bytes.
func (c *Claim) KeepArchive(ctx context.Context) error {
	if c.archive == nil {
		return fmt.Errorf("keep the archive of %.12s: nothing was created", c.key)
	}
	archive := c.archive
	c.archive = nil
	if err := c.store.finish(archive, 0o444); err != nil {
		return fmt.Errorf("keep the archive of %.12s: %w", c.key, err)
	}
	lock, err := c.store.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if _, err := os.Lstat(c.store.folder(c.key)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep the archive of %.12s: the object is gone", c.key)
	}
	if err := c.store.moveArchive(c.partial(), c.store.folder(c.key)); err != nil {
		return fmt.Errorf("keep the archive of %.12s: %w", c.key, err)
	}
	return nil
}
