package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/smolvm/smolvm/internal/fault"
)

const (
	lockName = ".config.lock"
	lockWait = 10 * time.Second
	lockPoll = 20 * time.Millisecond
)

// AddKey writes into the file that a key is trusted for a catalogue; false when
// it was so already. Everything else in the file stays as it is, comments too.
// A catalogue without keys so far is from then on believed by this key, no
// longer by the built-in ones.
func (c Config) AddKey(ctx context.Context, address, key string) (bool, error) {
	if err := errors.Join(checkAddress(address), checkKey(key)); err != nil {
		return false, fmt.Errorf("trust a key: %w", err)
	}
	return c.change(ctx, func(text string, f document) (string, error) {
		i := f.find(address)
		switch {
		case i < 0:
			return appendCatalogue(text, address, key), nil
		case slices.Contains(f.Catalogues[i].Keys, key):
			return text, nil
		}
		return insertKey(text, i, key)
	}, func(f *document) {
		i := f.find(address)
		if i < 0 {
			f.Catalogues = append(f.Catalogues, Catalogue{Address: address})
			i = len(f.Catalogues) - 1
		}
		entry := &f.Catalogues[i]
		entry.Keys, entry.Threshold = append(entry.Keys, key), max(1, entry.Threshold)
	})
}

// RemoveKey takes a key of a catalogue out of the file; false when it was not in
// it. With the last key goes the threshold, and the built-in keys count again.
func (c Config) RemoveKey(ctx context.Context, address, key string) (bool, error) {
	return c.change(ctx, func(text string, f document) (string, error) {
		i := f.find(address)
		if i < 0 || !slices.Contains(f.Catalogues[i].Keys, key) {
			return text, nil
		}
		if left := len(f.Catalogues[i].Keys) - 1; left > 0 && left < f.Catalogues[i].Threshold {
			return "", fault.New(fault.Conflict, "Add another key first, or lower the threshold in "+c.File+".",
				"stop trusting a key of %s: %d keys have to sign, and %d would be left", shown(address), f.Catalogues[i].Threshold, left)
		}
		return deleteKey(text, i, slices.Index(f.Catalogues[i].Keys, key))
	}, func(f *document) {
		entry := &f.Catalogues[f.find(address)]
		at := slices.Index(entry.Keys, key)
		if entry.Keys = slices.Delete(entry.Keys, at, at+1); len(entry.Keys) == 0 {
			entry.Keys, entry.Threshold = nil, 0
		}
	})
}

func (f document) find(address string) int {
	return slices.IndexFunc(f.Catalogues, func(c Catalogue) bool { return SameAddress(c.Address, address) })
}

// hasLogin reports whether an address of the file holds a name or a password.
func (f document) hasLogin() bool {
	addresses := []string{f.Manifest}
	for _, entry := range f.Catalogues {
		addresses = append(append(addresses, entry.Address), entry.Mirrors...)
	}
	return slices.ContainsFunc(addresses, func(address string) bool { return shown(address) != address })
}

// change rewrites the file under its lock. The edited text must read as what
// the change was to be; where it does not, nothing is written.
func (c Config) change(ctx context.Context, edit func(string, document) (string, error), want func(*document)) (bool, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	raw, err := readFile(c.File)
	if err != nil {
		return false, err
	}
	f, err := decodeFile(raw, c.File)
	if err != nil {
		return false, err
	}
	text, err := edit(string(raw), f)
	if err != nil || text == string(raw) {
		return false, err
	}
	want(&f)
	if err := f.check(); err != nil {
		return false, inFile(c.File, err)
	}
	if after, err := decodeFile([]byte(text), c.File); err != nil || !reflect.DeepEqual(after, f) {
		return false, fault.New(fault.Usage, "Change it with an editor.", "change %s: it is written in a way that is not understood well enough", c.File)
	}
	return true, replace(c.File, text, f.hasLogin())
}

// lock keeps other processes from writing; the kernel takes it back from one
// that died.
func (c Config) lock(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(filepath.Dir(c.File), 0o755); err != nil {
		return nil, fault.New(fault.Storage, "Check its owner and permissions.", "make the state folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock := flock.New(filepath.Join(filepath.Dir(c.File), lockName))
	if _, err := lock.TryLockContext(ctx, lockPoll); err != nil {
		return nil, fault.New(fault.Storage, "If another smolvm config hangs, end it.", "lock the configuration %s: %w", c.File, err)
	}
	return func() { _ = lock.Unlock() }, nil // closing it is all there is to it
}

// replace writes beside, fsyncs, renames, and fsyncs the folder. A link stays a
// link: what it points to is replaced, as those who keep their configuration
// elsewhere need it. A secret is for its owner only, whatever the mode was.
func replace(path, text string, secret bool) error {
	failed := func(err error) error {
		return fault.New(fault.Storage, "Check its owner, its permissions, and the space left.", "write the configuration %s: %w", path, err)
	}
	if _, err := os.Lstat(path); err == nil {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return failed(err)
		}
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+fileName+"-")
	if err != nil {
		return failed(err)
	}
	mode := modeOf(path)
	if secret {
		mode &= 0o600
	}
	defer os.Remove(temp.Name()) // not there any more when all went well
	_, err = temp.WriteString(text)
	if err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close()); err != nil {
		return failed(err)
	}
	if err := errors.Join(os.Rename(temp.Name(), path), syncDir(filepath.Dir(path))); err != nil {
		return failed(err)
	}
	return nil
}

func modeOf(path string) os.FileMode {
	if info, err := os.Stat(path); err == nil {
		return info.Mode().Perm()
	}
	return 0o644
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// appendCatalogue adds an entry at the end.
func appendCatalogue(text, address, key string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if text != "" {
		text += "\n"
	}
	return text + fmt.Sprintf("[[catalogue]]\naddress = %s\nkeys = [%s]\n", quoted(address), quoted(key))
}

// quoted writes a string that checkAddress or checkKey accepted for TOML.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
