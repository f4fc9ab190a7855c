package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
)

// Claim is the right to add, verify, repair or drop one object. One process at a
// time has it; when that process dies, the next one that waits gets it.
//
// Progress may be called from any goroutine; nothing else may be called at the
// same time as another method.
type Claim struct {
	store *Store
	key   string
	lock  *flock.Flock

	content, archive *os.File // of the partial, nil until they are asked for
	progress         progress
}

// Claim waits for the right to an object, or until no right is needed because
// the object is Ready: then ready is true and there is no claim. While another
// process has the claim, waiting, if not nil, is told at once and about five
// times a second how far that process is, 0 of 0 when it does not say.
//
// To look into an object that is Ready, use Seize.
func (s *Store) Claim(ctx context.Context, key string, waiting func(done, total int64)) (c *Claim, ready bool, err error) {
	if !manifest.IsSHA256(key) {
		return nil, false, fmt.Errorf("claim %.80q in the store: not a SHA-256", key)
	}
	isReady := func() bool { return s.look(key).State == Ready }
	if isReady() {
		return nil, true, nil
	}
	lock, err := s.wait(ctx, key, longestPoll, s.follow(key, waiting, isReady))
	if err != nil {
		return nil, false, err
	}
	if lock == nil {
		return nil, true, nil
	}
	if isReady() { // since the last look
		return nil, true, lock.Unlock()
	}
	c, err = s.begin(key, lock)
	return c, false, err
}

// Seize waits for the right to an object whatever its state: to verify, doubt or
// drop it, or to keep its archive.
func (s *Store) Seize(ctx context.Context, key string, waiting func(done, total int64)) (*Claim, error) {
	if !manifest.IsSHA256(key) {
		return nil, fmt.Errorf("claim %.80q in the store: not a SHA-256", key)
	}
	lock, err := s.wait(ctx, key, longestPoll, s.follow(key, waiting, func() bool { return false }))
	if err != nil {
		return nil, err
	}
	return s.begin(key, lock)
}

// follow is what a process does between two tries to get a claim. The first try
// may have failed because a prune was looking; nobody is told of that.
func (s *Store) follow(key string, waiting func(done, total int64), isReady func() bool) func(time.Duration) bool {
	next := firstPoll
	return func(waited time.Duration) bool {
		if isReady() {
			return true
		}
		if waiting != nil && waited >= next {
			waiting(s.readProgress(key))
			next = waited + longestPoll
		}
		return false
	}
}

// begin makes a claim of a lock. What a process left in tmp that died with the
// claim is removed.
func (s *Store) begin(key string, lock *flock.Flock) (*Claim, error) {
	c := &Claim{store: s, key: key, lock: lock}
	err := s.refuseNewer(key)
	if err == nil {
		if failed := s.removeTemps(key + "-"); failed != nil {
			err = storage(s.tmp, "clean up", failed)
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Release())
	}
	return c, nil
}

// refuseNewer keeps hands off an object that a newer version has recorded.
func (s *Store) refuseNewer(key string) error {
	if object := s.look(key); object.State == Foreign {
		return fault.New(fault.Conflict, "Update this SmolVM, or use another SMOLVM_HOME.",
			"claim %s: a newer version of SmolVM keeps it", object.Path)
	}
	return nil
}

// Open opens the content of the object, for the caller to verify, with its
// identity before the first byte was read.
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
	identity.settle()
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

// Doubt makes an object Doubtful whose bytes turned out to be wrong although its
// identity is unchanged: a disk that forgets does not change times.
func (c *Claim) Doubt(ctx context.Context) error {
	lock, err := c.store.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	rec, err := c.store.readRecord(c.key)
	if err != nil {
		return nil //nolint:nilerr // without a record it is Doubtful, or not there
	}
	if err := c.store.writeRecord(c.key, rec.Origin, Identity{}); err != nil {
		return fmt.Errorf("doubt %s: %w", c.store.folder(c.key), err)
	}
	return nil
}

// Drop removes the object and the views that show it.
func (c *Claim) Drop(ctx context.Context) error {
	err := c.store.retiring(ctx, func(b *bin) error {
		for _, v := range c.store.views() {
			if v.shows(c.key) {
				if err := b.retire(c.store.Folder(v)); err != nil {
					return err
				}
				_ = os.Remove(filepath.Dir(c.store.Folder(v))) // if it was the release's last
			}
		}
		return b.retire(c.store.folder(c.key))
	})
	if err != nil {
		return storage(c.store.folder(c.key), "remove", err)
	}
	return nil
}

// DropArchive removes the archive that is kept beside the object, and where images
// show it. The object stays what it is.
func (c *Claim) DropArchive(ctx context.Context) error {
	lock, err := c.store.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	paths := []string{filepath.Join(c.store.folder(c.key), archiveFile)}
	for _, v := range c.store.views() {
		for _, f := range v.Files {
			if f.Key == c.key {
				paths = append(paths, filepath.Join(c.store.Folder(v), f.Name+archiveSuffix))
			}
		}
	}
	for _, path := range paths {
		err := c.store.remove(path)
		if err == nil {
			err = c.store.syncDir(filepath.Dir(path))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storage(path, "remove", err)
		}
	}
	return nil
}

// Release gives the claim up. The partial stays for the next claim to resume.
// Releasing twice does nothing.
func (c *Claim) Release() error {
	return errors.Join(c.closePartial(true), c.lock.Unlock())
}
