package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/store"
)

// holders are the sandboxes with the files of the cache that they stand on,
// whether they run or not. The store asks for them under its lock.
func (a *App) holders(context.Context) ([]store.Holder, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	book, err := record.Open(c.Home)
	if err != nil {
		return nil, err
	}
	names, err := book.Names()
	if err != nil {
		return nil, err
	}
	var all []store.Holder
	for _, name := range names {
		keys, err := heldBy(book, name)
		if err != nil {
			return nil, err
		}
		all = append(all, store.Holder{Name: "sandbox " + name, Keys: keys})
	}
	return all, nil
}

// heldBy are the keys of what a sandbox stands on. Of a record that cannot be
// understood, such as a newer program's, everything counts that looks like a key:
// too much stays rather than too little.
func heldBy(book *record.Book, name string) ([]string, error) {
	r, err := book.Read(name)
	if err == nil {
		return keysOf(r.Image), nil
	}
	if fault.CodeOf(err) == fault.NotFound || errors.Is(err, record.ErrIncomplete) {
		return nil, nil // gone meanwhile, or just being made under a lease
	}
	raw, err := readRecord(book.Folder(name).Record())
	if err != nil {
		return nil, fault.New(fault.Storage, fmt.Sprintf("Delete the sandbox if it is not needed: smolvm delete %s", name),
			"find out what sandbox %q needs: %w", name, err)
	}
	return anyKey.FindAllString(string(raw), -1), nil
}

// anyKey is what the key of an object looks like.
var anyKey = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// maxHeldRecord bounds what is searched for keys; a record has about 3 KiB.
const maxHeldRecord = 4 << 20

// readRecord reads a record that the record room does not understand; what is no
// file holds nothing.
func readRecord(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP):
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, maxHeldRecord))
}

// keysOf are the keys of an image's files: the names of the folders they are in.
func keysOf(image record.Image) []string {
	paths := []string{image.Kernel, image.Modules}
	for _, layer := range image.Layers {
		paths = append(paths, layer.Path)
	}
	var keys []string
	for _, path := range paths {
		if key := filepath.Base(filepath.Dir(path)); anyKey.MatchString(key) {
			keys = append(keys, key)
		}
	}
	return keys
}
