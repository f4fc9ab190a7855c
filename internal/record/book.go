package record

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// farTemp holds the sockets of homes with long paths. It is fixed, not TMPDIR,
// because every session has to find the same sockets.
const farTemp = "/tmp"

// removedPrefix starts the name of a folder whose removal has begun. No sandbox
// can have such a name.
const removedPrefix = ".removed-"

// Book holds all sandboxes of one home, or all of its snapshots.
type Book struct {
	home string
	dir  string // home/sandboxes, home/snapshots
	noun string // what one is called
	temp string

	reached func(step string) error // tests stop a write here; nil otherwise
}

// Open looks at the book of a home, an absolute path. It makes nothing: a home
// without sandboxes is an empty book, also where it cannot be written.
func Open(home string) (*Book, error) { return open(home, "sandboxes", sandboxNoun) }

// OpenSnapshots does the same with the home's snapshots, each of which has a record
// and a disk as a sandbox has, and is never started.
func OpenSnapshots(home string) (*Book, error) { return open(home, "snapshots", snapshotNoun) }

func open(home, folder, noun string) (*Book, error) {
	if !filepath.IsAbs(home) {
		return nil, fault.New(fault.Usage, "Give an absolute path.", "state folder %q is not an absolute path", home)
	}
	home = filepath.Clean(home)
	b := &Book{home: home, dir: filepath.Join(home, folder), noun: noun, temp: farTemp}
	info, err := os.Lstat(b.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, nil
	case err != nil:
		return nil, storage(err, "look at the state folder")
	}
	return b, checkPrivate(b.dir, info)
}

// What those are called that are started, and those that are kept.
const (
	sandboxNoun  = "sandbox"
	snapshotNoun = "snapshot"
)

// Noun is what one of them is called.
func (b *Book) Noun() string { return b.noun }

// Deleting is the command that removes one.
func (b *Book) Deleting() string {
	if b.noun == sandboxNoun {
		return "delete"
	}
	return b.noun + " rm"
}

// listing is the command that lists them.
func (b *Book) listing() string {
	if b.noun == sandboxNoun {
		return "list"
	}
	return b.noun + " list"
}

// what is one of them in a message.
func (b *Book) what(name string) string { return fmt.Sprintf("%s %q", b.noun, name) }

// make makes the folders of the book.
func (b *Book) make() error {
	if err := os.MkdirAll(b.home, 0o755); err != nil {
		return storage(err, "make the state folder")
	}
	for _, dir := range []string{b.dir, filepath.Join(b.home, "run")} {
		if err := privateDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// Folder names what belongs to a sandbox, whether it exists or not.
func (b *Book) Folder(name string) Folder {
	return Folder{dir: filepath.Join(b.dir, name), home: b.home, temp: b.temp}
}

// Names lists the sandboxes, broken ones included, in order of their names.
func (b *Book) Names() ([]string, error) {
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, storage(err, "list what is in "+b.dir)
	}
	var names []string
	for _, e := range entries {
		if ValidateName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// mustExist fails with Usage or NotFound.
func (b *Book) mustExist(name string) error {
	if err := validate(b.noun, name); err != nil {
		return err
	}
	_, err := os.Lstat(b.Folder(name).Dir())
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, "See smolvm "+b.listing()+".", "there is no %s", b.what(name))
	}
	if err != nil {
		return storage(err, "look at a "+b.noun)
	}
	return nil
}

// Read gives a sandbox's record. It fails with NotFound where there is no such
// sandbox, with ErrIncomplete where there is no record yet, and otherwise with
// what is wrong with the record; such a sandbox can still be removed.
func (b *Book) Read(name string) (Record, error) {
	if err := b.mustExist(name); err != nil {
		return Record{}, err
	}
	r, err := b.read(name)
	if err != nil {
		hint := fault.HintOf(err)
		if hint == "" {
			hint = fmt.Sprintf("Delete it: smolvm %s %s", b.Deleting(), name)
		}
		return Record{}, fault.New(brokenCode(err), hint, "read %s: %w", b.what(name), err)
	}
	return r.located(b.home), nil
}

// brokenCode keeps the code of a fault; other causes are the disk's.
func brokenCode(err error) fault.Code {
	if f := (*fault.Fault)(nil); errors.As(err, &f) && f.Code != fault.Usage {
		return f.Code
	}
	return fault.Storage
}

func (b *Book) read(name string) (Record, error) {
	folder := b.Folder(name)
	info, err := os.Lstat(folder.Dir())
	if err != nil {
		return Record{}, err
	}
	if !info.IsDir() {
		return Record{}, fmt.Errorf("%s is not a folder", folder.Dir())
	}
	data, err := readRegular(folder.Record())
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, ErrIncomplete
	}
	if err != nil {
		return Record{}, err
	}
	r, err := Decode(data)
	if r.RenameTo == name { // a rename was interrupted after its last step that counts
		r.Name = name
	}
	r.RenameTo = ""
	if err == nil && r.Name != name {
		err = fmt.Errorf("the record is that of %s", b.what(r.Name))
	}
	return r, err
}

// readRegular reads a bounded regular file; a planted link, FIFO or device is
// refused instead of followed or waited for.
func readRegular(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|safely, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxRecord+1))
}

// Create reserves a name: it makes the sandbox's folder and takes its lock. It
// fails with Conflict when the name is taken.
func (b *Book) Create(name string) (*Lock, error) {
	if err := validate(b.noun, name); err != nil {
		return nil, err
	}
	open, err := b.gate()
	if err != nil {
		return nil, err
	}
	defer open()
	folder := b.Folder(name)
	if err := os.Mkdir(folder.Dir(), 0o700); errors.Is(err, fs.ErrExist) {
		return nil, fault.New(fault.Conflict, "Choose another name, or delete that "+b.noun+" first.",
			"there is already a %s", b.what(name))
	} else if err != nil {
		return nil, storage(err, "make the folder of a "+b.noun)
	}
	lock, err := b.take(name)
	if err == nil {
		err = os.Mkdir(folder.SSH(), 0o700)
	}
	if err == nil {
		err = syncDir(b.dir)
	}
	if err != nil {
		return nil, errors.Join(storage(err, "make the folder of a "+b.noun), b.remove(name))
	}
	return lock, nil
}

// Remove removes a sandbox, broken or not, with its folder and sockets. It
// fails with NotFound where there is none and with Conflict while another
// process holds its lock; a holder calls Lock.Remove instead.
func (b *Book) Remove(name string) error {
	open, err := b.gateAt(name)
	if err != nil {
		return err
	}
	defer open()
	lock, err := b.take(name)
	if err != nil && b.lockable(name) {
		return err
	}
	err = b.remove(name)
	if lock != nil {
		err = errors.Join(err, lock.Release())
	}
	return err
}

// RemoveIf removes one that is abandoned, if nobody holds it: it is judged again under
// its lock.
func (b *Book) RemoveIf(name string, abandoned func(name string) bool) error {
	if !abandoned(name) {
		return nil
	}
	lock, err := b.Lock(name)
	switch code := fault.CodeOf(err); {
	case err != nil && (code == fault.Conflict || code == fault.NotFound):
		return nil
	case err != nil:
		return err
	}
	if !abandoned(name) {
		return lock.Release()
	}
	return lock.Remove()
}

// lockable tells whether the sandbox has a lock that somebody could be holding.
func (b *Book) lockable(name string) bool {
	dir, err := os.Lstat(b.Folder(name).Dir())
	if err != nil || !dir.IsDir() {
		return false
	}
	file, err := os.Lstat(b.Folder(name).LockFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || file.Mode().IsRegular()
}

// remove takes the folder out of sight by one rename, then removes its parts.
// The gate is closed. A crash in between leaves a folder that Sweep removes.
func (b *Book) remove(name string) error {
	if err := b.Folder(name).RemoveRunDir(); err != nil {
		return err
	}
	gone := filepath.Join(b.dir, removedPrefix+name)
	if err := os.RemoveAll(gone); err != nil {
		return storage(err, "remove what is left of an earlier "+b.noun)
	}
	if err := os.Rename(b.Folder(name).Dir(), gone); err != nil {
		return storage(err, "remove "+b.what(name))
	}
	if err := os.RemoveAll(gone); err != nil {
		return storage(err, "remove "+b.what(name))
	}
	return syncDir(b.dir)
}

// Sweep removes what interrupted removals and renames left.
func (b *Book) Sweep() error {
	entries, err := os.ReadDir(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storage(err, "list what is in "+b.dir)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removedPrefix) {
			errs = append(errs, b.sweep(filepath.Join(b.dir, e.Name())))
		}
	}
	if b.noun == sandboxNoun {
		errs = append(errs, b.sweepSockets())
	}
	return errors.Join(errs...)
}

func (b *Book) sweep(path string) error {
	open, err := b.gate()
	if err != nil {
		return err
	}
	defer open()
	if err := os.RemoveAll(path); err != nil {
		return storage(err, "remove what is left of an earlier "+b.noun)
	}
	return nil
}
