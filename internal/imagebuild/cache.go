package imagebuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
)

// format is part of every key: raise it when the way of building changes, here or
// in the guest agent's packing, so that older results must not be used.
const format = "1"

// cache keeps results by key: DIR/KIND/KEY/ holds the files of one.
type cache struct{ dir string }

// contentKey is the digest of a value's JSON form: of all that a result is made from.
func contentKey(inputs any) string {
	raw, err := json.Marshal(struct {
		Format string `json:"format"`
		Inputs any    `json:"inputs"`
	}{format, inputs})
	if err != nil {
		panic("imagebuild: inputs of a key cannot be encoded: " + err.Error()) // only plain values get here
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// path is the folder of a result, whether it is there or not.
func (c cache) path(kind, key string) string { return filepath.Join(c.dir, kind, key) }

// has tells whether a result is there.
func (c cache) has(kind, key string) bool {
	info, err := os.Stat(c.path(kind, key))
	return err == nil && info.IsDir()
}

// workDir is where everything unfinished lives; the holder of the lock owns it.
func (c cache) workDir() string { return filepath.Join(c.dir, "work") }

// open makes the cache folder, waits for its lock, and removes what an
// interrupted build left. The returned function removes what this one leaves, and
// gives the lock back.
func (c cache) open(ctx context.Context, sink event.Sink) (release func() error, err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fault.New(fault.Storage, "SMOLVM_BUILD_CACHE names another folder.", "make the build cache: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.New(fault.Storage, "SMOLVM_BUILD_CACHE names another folder.", "lock the build cache: %w", err)
	}
	if err := lockFile(ctx, file, sink, c.dir); err != nil {
		return nil, err
	}
	if err := c.sweep(); err != nil {
		file.Close()
		return nil, err
	}
	return func() error { return errors.Join(c.sweep(), file.Close()) }, nil
}

// sweep removes everything unfinished, and the downloads of a finished build.
func (c cache) sweep() error {
	if err := os.RemoveAll(c.workDir()); err != nil {
		return fault.New(fault.Storage, "", "clean the build cache: %w", err)
	}
	return nil
}

// lockFile takes the lock of the file, which it closes on failure. A wait that is
// cancelled leaves the blocked call behind; it ends when the other build does.
func lockFile(ctx context.Context, file *os.File, sink event.Sink, dir string) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		file.Close()
		return fmt.Errorf("lock the build cache %s: %w", dir, err)
	}
	sink.Emit(event.Event{Kind: event.Notice, Text: "another build uses " + dir + "; waiting for it"})
	taken := make(chan error, 1)
	go func() {
		taken <- syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if ctx.Err() != nil {
			file.Close()
		}
	}()
	select {
	case err := <-taken:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work makes an empty folder for a result that is being built.
func (c cache) work(kind string) (string, error) {
	if err := os.MkdirAll(c.workDir(), 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(c.workDir(), kind+"-")
}

// commit puts a finished work folder into place, on disk to the last byte.
func (c cache) commit(work, kind, key string) error {
	err := filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
	if err != nil {
		return fmt.Errorf("write %s to disk: %w", kind, err)
	}
	final := c.path(kind, key)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	if err := os.Rename(work, final); err != nil {
		return fmt.Errorf("keep %s: %w", kind, err)
	}
	return syncPath(filepath.Dir(final))
}

// syncPath flushes a file or folder to disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
