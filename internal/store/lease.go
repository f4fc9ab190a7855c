package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Bounds of a lease, and the beginning of its file's name.
const (
	leasePrefix = "lease-"
	maxLease    = 512 << 10
	maxKeys     = 4096
	maxLabel    = 200
	touchEvery  = time.Hour // last use need not be known better
)

// Lease is the right that objects stay, those that are here and those that will
// be. It ends with Release or with the process.
type Lease struct {
	path string
	file *os.File   // locked; nil where the store cannot be written
	pins []*os.File // locked folders of objects, where the store cannot be written
}

// leaseFile is the content of a lease's file.
type leaseFile struct {
	Schema int      `json:"schema"`
	Label  string   `json:"label"`
	Keys   []string `json:"keys"`
}

// Lease takes the right that these objects stay. Label says for what, to whom a
// prune tells that they stayed. Objects that are here count as used now.
//
// In a store that this user cannot write to, the folders of the objects that are
// here are locked instead: the owner's prune looks at both.
func (s *Store) Lease(ctx context.Context, label string, keys []string) (*Lease, error) {
	content := leaseFile{schema, label, keys}
	if err := content.validate(); err != nil {
		return nil, fmt.Errorf("lease images: %w", err)
	}
	lock, err := s.lock(ctx)
	if err != nil {
		if ctx.Err() == nil && isForbidden(err) {
			return s.pin(keys), nil
		}
		return nil, err
	}
	defer lock.Unlock()
	lease, err := s.lease(content)
	switch {
	case err == nil:
		s.touch(keys)
		return lease, nil
	case isForbidden(err) || errors.Is(err, fs.ErrNotExist): // an old store without the folder
		return s.pin(keys), nil
	}
	return nil, storage(s.leases, "write a lease to", err)
}

// lease makes the file in tmp, so that nobody sees it unlocked. It is not synced:
// the right does not outlive the process, so it does not outlive the computer.
func (s *Store) lease(content leaseFile) (*Lease, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(s.leases); err != nil || !info.IsDir() {
		return nil, errors.Join(err, fs.ErrNotExist)
	}
	file, err := os.CreateTemp(s.tmp, metaPrefix)
	if s.told("create", s.tmp, err) != nil {
		return nil, err
	}
	path := filepath.Join(s.leases, leasePrefix+strings.TrimPrefix(filepath.Base(file.Name()), metaPrefix))
	err = errors.Join(file.Chmod(0o644), unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if err == nil {
		_, err = file.Write(raw)
		err = s.told("write", file.Name(), err)
	}
	if err == nil {
		err = s.rename(file.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(file.Name()), file.Close())
	}
	return &Lease{path: path, file: file}, nil
}

// pin locks the objects' folders, shared with other readers.
func (s *Store) pin(keys []string) *Lease {
	lease := &Lease{}
	for _, key := range keys {
		file, err := openFolder(s.folder(key))
		if err != nil {
			continue // not here, and in this store it will not come
		}
		if !share(file) {
			_ = file.Close() // just being pruned: the lookup that follows tells
			continue
		}
		lease.pins = append(lease.pins, file)
	}
	return lease
}

// share locks a folder together with other readers. A prune that looks at it has
// it for a moment; one that takes it for longer takes it away.
func share(folder *os.File) bool {
	for range 25 {
		if unix.Flock(int(folder.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
			return true
		}
		<-time.After(firstPoll)
	}
	return false
}

func openFolder(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
}

// touch notes that objects are used, in the time of their folders.
func (s *Store) touch(keys []string) {
	now := s.now()
	for _, key := range keys {
		info, err := os.Lstat(s.folder(key))
		if err != nil || !info.IsDir() {
			continue
		}
		if age := now.Sub(info.ModTime()); age > touchEvery || age < 0 {
			_ = os.Chtimes(s.folder(key), time.Time{}, now) // another user's: the order of a prune is all that suffers
		}
	}
}

// Release gives the right up. Releasing twice does nothing.
func (l *Lease) Release() error {
	var failed error
	if l.file != nil {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
		}
		failed = errors.Join(failed, l.file.Close())
	}
	for _, pin := range l.pins {
		failed = errors.Join(failed, pin.Close())
	}
	l.file, l.pins = nil, nil
	return failed
}

func (f leaseFile) validate() error {
	switch {
	case f.Label == "" || len(f.Label) > maxLabel || !utf8.ValidString(f.Label):
		return fmt.Errorf("the label %.80q is empty, too long or no text", f.Label)
	case len(f.Keys) > maxKeys:
		return fmt.Errorf("%d objects, at most %d are allowed", len(f.Keys), maxKeys)
	}
	for _, key := range f.Keys {
		if !manifest.IsSHA256(key) {
			return fmt.Errorf("%.80q is not a SHA-256", key)
		}
	}
	return nil
}

// held are the living leases as holders, and the paths of the dead ones. The
// caller holds the store's lock. A living lease that cannot be read makes blind:
// nobody knows what it holds.
func (s *Store) held() (holders []Holder, dead []string, blind bool, err error) {
	entries, err := os.ReadDir(s.leases)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, false, storage(s.leases, "list", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), leasePrefix) {
			continue
		}
		path := filepath.Join(s.leases, entry.Name())
		if !isLeased(path) {
			dead = append(dead, path)
			continue
		}
		lease, err := readLease(path)
		if err != nil {
			blind = true
			continue
		}
		holders = append(holders, Holder{Name: lease.Label, Keys: lease.Keys})
	}
	return holders, dead, blind, nil
}

// isLeased tells whether a process holds that lease. What cannot be opened counts
// as held, unless it is nothing that could be a lease.
func isLeased(path string) bool {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return false
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer file.Close()
	return unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

func readLease(path string) (leaseFile, error) {
	raw, err := readFile(path, maxLease)
	if err != nil {
		return leaseFile{}, err
	}
	var lease leaseFile
	if err := decode(raw, &lease); err != nil {
		return leaseFile{}, err
	}
	return lease, lease.validate()
}
