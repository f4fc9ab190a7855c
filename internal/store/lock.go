package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// flock(2) has no wait that a context can end, so a lock that another process
// holds is tried again and again: at first at once, later after an eighth of the
// time waited so far, so that many waiting processes cost next to nothing and
// nobody waits much longer than necessary.
const (
	firstPoll   = 2 * time.Millisecond
	longestPoll = 200 * time.Millisecond // for a claim: also how often waiting is told
	storePoll   = 25 * time.Millisecond  // for the store's lock, held for milliseconds
	longWait    = time.Second            // for what has no claim: from then on it is told
)

const storeLock = "store"

// lock takes the store's own lock, which guards records, views, leases and what
// is retired. It is held for milliseconds, and never while waiting for a claim.
func (s *Store) lock(ctx context.Context) (*flock.Flock, error) {
	return s.waitAloud(ctx, storeLock, storePoll)
}

// waitAloud waits for a lock, and tells when that takes long.
func (s *Store) waitAloud(ctx context.Context, name string, longest time.Duration) (*flock.Flock, error) {
	over := func() {}
	told := s.waiting == nil
	lock, err := s.wait(ctx, name, longest, func(waited time.Duration) bool {
		if !told && waited >= longWait {
			told, over = true, s.waiting(filepath.Join(s.locks, name))
		}
		return false
	})
	over()
	return lock, err
}

// Still calls look while nothing in the store is moved. In a store of another user
// it cannot keep that off.
func (s *Store) Still(ctx context.Context, look func()) error {
	lock, err := s.lock(ctx)
	if err != nil {
		if ctx.Err() != nil || !isForbidden(err) {
			return err
		}
		look()
		return nil
	}
	look()
	return lock.Unlock()
}

// wait takes the lock of that name as soon as it is free. After each try that
// failed it asks enough, if not nil, which ends the waiting without a lock.
func (s *Store) wait(ctx context.Context, name string, longest time.Duration, enough func(waited time.Duration) bool) (*flock.Flock, error) {
	var waited time.Duration
	for {
		lock, err := s.try(name)
		if err != nil || lock != nil {
			return lock, err
		}
		if enough != nil && enough(waited) {
			return nil, nil //nolint:nilnil // documented: no lock is needed any more
		}
		pause := min(max(waited/8, firstPoll), longest)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("wait for the lock %s: %w", filepath.Join(s.locks, name), context.Cause(ctx))
		case <-timer.C:
		}
		waited += pause
	}
}

// try takes a lock if it is free, and returns nil if it is not. A lock file that
// was removed or replaced meanwhile locks nobody out, so it does not count.
func (s *Store) try(name string) (*flock.Flock, error) {
	lock := s.newLock(name)
	held, err := lock.TryLock()
	if err != nil {
		return nil, storage(lock.Path(), "lock", err)
	}
	if !held {
		return nil, nil //nolint:nilnil // documented: somebody else has it
	}
	ours, err := lock.Stat()
	if err == nil {
		if now, err := os.Lstat(lock.Path()); err == nil && os.SameFile(ours, now) {
			return lock, nil
		}
	}
	if err := lock.Unlock(); err != nil {
		return nil, storage(lock.Path(), "lock", err)
	}
	return nil, nil //nolint:nilnil // the next try opens the file that is there now
}

// newLock opens no symbolic link and does not block on a FIFO. Reading is enough
// for flock, and lets a second user of a shared cache lock too.
func (s *Store) newLock(name string) *flock.Flock {
	flags := os.O_CREATE | os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	return flock.New(filepath.Join(s.locks, name), flock.SetFlag(flags), flock.SetPermissions(0o644))
}
