package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Claim is the right to add, verify or drop one object. One process at a time
// has it; when that process dies, the next one that waits gets it.
type Claim struct {
	store *Store
	key   string
	lock  *flock.Flock
	dir   string   // in tmp, "" before Create
	file  *os.File // in dir
}

// Claim waits for the right to an object. Waiting, if not nil, is called once if
// another process has it. What that process left behind is removed.
func (s *Store) Claim(ctx context.Context, key string, waiting func()) (*Claim, error) {
	if !manifest.IsSHA256(key) {
		return nil, fmt.Errorf("claim %.80q in the store: not a SHA-256", key)
	}
	lock, err := s.take(ctx, key, waiting)
	if err != nil {
		return nil, err
	}
	c := &Claim{store: s, key: key, lock: lock}
	if err := s.removeTemps(key + "-"); err != nil {
		return nil, errors.Join(storage(s.tmp, "clean up", err), c.Release())
	}
	return c, nil
}

// Create makes the empty file that the object's bytes are expanded to. A file
// made before under this claim is thrown away. The claim closes the file.
func (c *Claim) Create() (*os.File, error) {
	if err := c.discard(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.store.tmp, c.key+"-")
	if err != nil {
		return nil, storage(c.store.tmp, "make a file in", err)
	}
	c.dir = dir
	c.file, err = createFile(filepath.Join(dir, contentFile))
	if err != nil {
		return nil, storage(dir, "make a file in", err)
	}
	return c.file, nil
}

// Commit adopts the created file, whose every byte the caller has verified
// against index, as the object. An object that is there is replaced.
func (c *Claim) Commit(ctx context.Context, origin Origin, index []byte) (Object, error) {
	if c.file == nil {
		return Object{}, fmt.Errorf("store %s: nothing was created", origin.Name)
	}
	file := c.file
	c.file = nil
	if err := finish(file, 0o444); err != nil {
		return Object{}, fmt.Errorf("store %s: %w", origin.Name, err)
	}
	if err := c.describe(origin, index); err != nil {
		return Object{}, fmt.Errorf("store %s: %w", origin.Name, err)
	}
	lock, err := c.store.lock(ctx)
	if err != nil {
		return Object{}, err
	}
	defer lock.Unlock()
	if err := c.store.publish(c.dir, c.store.folder(c.key)); err != nil {
		return Object{}, fmt.Errorf("store %s: %w", origin.Name, err)
	}
	c.dir = ""
	return c.store.look(c.key), nil
}

// describe writes index and record beside the content, all still in tmp.
func (c *Claim) describe(origin Origin, index []byte) error {
	identity, err := identify(filepath.Join(c.dir, contentFile))
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(record{schema, origin, identity}, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(
		writeFile(filepath.Join(c.dir, indexFile), index, 0o444),
		writeFile(filepath.Join(c.dir, recordFile), append(raw, '\n'), 0o644))
}

// Open opens the content of an object that is Doubtful, for the caller to verify,
// with its identity before the first byte was read.
func (c *Claim) Open() (*os.File, Identity, error) {
	path := filepath.Join(c.store.folder(c.key), contentFile)
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Identity{}, err
	}
	identity, err := identifyOpen(file)
	if err != nil {
		return nil, Identity{}, errors.Join(err, file.Close())
	}
	return file, identity, nil
}

// Settle records that every byte of the content was verified after Open gave its
// identity. It refuses when the content was touched or replaced meanwhile.
func (c *Claim) Settle(ctx context.Context, origin Origin, verified Identity) (Object, error) {
	lock, err := c.store.lock(ctx)
	if err != nil {
		return Object{}, err
	}
	defer lock.Unlock()
	path := filepath.Join(c.store.folder(c.key), contentFile)
	now, err := identify(path)
	if err != nil {
		return Object{}, err
	}
	if now != verified {
		return Object{}, fmt.Errorf("record %s: it changed while it was verified", path)
	}
	if err := c.store.writeRecord(c.key, origin, now); err != nil {
		return Object{}, fmt.Errorf("record %s: %w", path, err)
	}
	return c.store.look(c.key), nil
}

// Drop removes the object.
func (c *Claim) Drop(ctx context.Context) error {
	lock, err := c.store.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := c.store.retire(c.store.folder(c.key)); err != nil {
		return storage(c.store.folder(c.key), "remove", err)
	}
	return nil
}

// Release gives the claim up and deletes what was created and not committed.
func (c *Claim) Release() error { return errors.Join(c.discard(), c.lock.Unlock()) }

func (c *Claim) discard() error {
	var err error
	if c.file != nil {
		err = c.file.Close()
		c.file = nil
	}
	if c.dir != "" {
		err = errors.Join(err, os.RemoveAll(c.dir))
		c.dir = ""
	}
	return err
}
