package cli

import (
	"context"
	"encoding/json"
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

// holders are the sandboxes and snapshots with the files of the cache that they stand
// on, whether they run or not. The store asks for them under its lock.
func (a *App) holders(context.Context) ([]store.Holder, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	boxes, err := record.Open(c.Home)
	if err != nil {
		return nil, err
	}
	kept, err := record.OpenSnapshots(c.Home)
	if err != nil {
		return nil, err
	}
	all, err := a.holdersIn(boxes)
	if err != nil {
		return nil, err
	}
	more, err := a.holdersIn(kept)
	return append(all, more...), err
}

// holdersIn are those of one book.
func (a *App) holdersIn(book *record.Book) ([]store.Holder, error) {
	names, err := book.Names()
	if err != nil {
		return nil, err
	}
	var all []store.Holder
	for _, name := range names {
		holder, err := a.holder(book, name)
		if err != nil {
			return nil, err
		}
		all = append(all, holder)
	}
	return all, nil
}

// holder is a sandbox or snapshot with the keys of what it stands on. Of a newer program's
// record everything counts that looks like a key; where a record was lost or torn
// the sandbox may stand on anything: too much stays rather than too little.
func (a *App) holder(book *record.Book, name string) (store.Holder, error) {
	holder := store.Holder{Name: book.Noun() + " " + name}
	r, err := book.Read(name)
	switch {
	case err == nil:
		holder.Keys = keysOf(r.Image)
		return holder, nil
	case fault.CodeOf(err) == fault.NotFound, errors.Is(err, record.ErrIncomplete) && !hasDisk(book.Folder(name)):
		return holder, nil // gone meanwhile, or just being made under a lease
	}
	raw, failed := readRecord(book.Folder(name).Record())
	if failed == nil && json.Valid(raw) { // whole, but not ours
		holder.Keys = anyKey.FindAllString(string(raw), -1)
	}
	if len(holder.Keys) > 0 {
		return holder, nil
	}
	holder.Name += fmt.Sprintf(", whose record cannot be read (smolvm %s %s)", book.Deleting(), name)
	holder.Keys, err = a.allKeys()
	return holder, err
}

// hasDisk tells whether a sandbox has a disk already: it is made after the record.
func hasDisk(folder record.Folder) bool {
	_, err := os.Lstat(folder.Scratch())
	return !errors.Is(err, fs.ErrNotExist)
}

// allKeys are the keys of all that is in the cache, whole or not.
func (a *App) allKeys() ([]string, error) {
	cache, err := a.openStore()
	if err != nil {
		return nil, err
	}
	images, err := cache.Images()
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, image := range images {
		for _, file := range image.Files {
			keys = append(keys, file.Key)
		}
	}
	for _, dir := range []string{"objects", "partial"} {
		entries, err := os.ReadDir(filepath.Join(cache.Home(), "store", dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(fault.Storage, "", "list the cache: %w", err)
		}
		for _, entry := range entries {
			keys = append(keys, entry.Name())
		}
	}
	return keys, nil
}

// anyKey is what the key of an object looks like.
var anyKey = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// maxHeldRecord bounds what is searched for keys; a record has about 3 KiB.
const maxHeldRecord = 4 << 20

// readRecord reads a record that the record room does not understand. What is no
// file is refused, not followed or waited for.
func readRecord(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fs.ErrInvalid, err)
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
