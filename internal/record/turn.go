package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// turnPoll is the pause between two tries: flock(2) has no wait that a context can end.
const turnPoll = 50 * time.Millisecond

// turnIDLen is the number of bytes that name a turn.
const turnIDLen = 8

// Turn waits until no other process has the turn for what key names, such as a first
// start in a directory, and takes it until the returned function is called. waiting is
// called once, where it is not to be had at once. A process that dies gives its turn up.
func (b *Book) Turn(ctx context.Context, key string, waiting func()) (done func() error, err error) {
	if err := b.make(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(b.dir, ".turn-"+hex.EncodeToString(sum[:turnIDLen]))
	for tries := 0; ; tries++ {
		lock, err := tryTurn(path)
		if err != nil {
			return nil, storage(err, "wait for another smolvm")
		}
		if lock != nil {
			return func() error { return errors.Join(os.Remove(path), lock.Unlock()) }, nil
		}
		if tries == 0 {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another smolvm: %w", context.Cause(ctx))
		case <-time.After(turnPoll):
		}
	}
}

// tryTurn takes a turn if it is free, and gives nil if it is not. The one before
// removes its file: a lock of that locks nobody out.
func tryTurn(path string) (*flock.Flock, error) {
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR|safely), flock.SetPermissions(0o600))
	held, err := lock.TryLock()
	if err != nil || !held {
		return nil, err
	}
	ours, err := lock.Stat()
	if err == nil {
		if now, err := os.Lstat(path); err == nil && os.SameFile(ours, now) {
			return lock, nil
		}
	}
	return nil, lock.Unlock()
}
