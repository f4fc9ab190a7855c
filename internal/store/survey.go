package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Who keeps what is no lease and no holder.
const (
	newerVersion = "a newer version of SmolVM"
	otherProcess = "another process that downloads or verifies it"
	otherUser    = "another user"
)

// survey is what is in the store, and who needs it, while the store's lock is held.
type survey struct {
	store    *Store
	holders  []Holder // living leases, then those of the caller
	blind    bool     // there is a lease that only a newer version can read
	leases   []string // paths of dead ones
	temps    []string // paths of dead ones
	empty    []string // paths of releases without any image
	views    []View
	objects  []Object
	partials []partial
	folders  map[uint64]folder // of images that are no views, by the inodes in them
	busy     map[string]string // keys that are claimed or pinned, by whom
	locks    []locked
}

// partial is an object that is not complete.
type partial struct {
	key     string
	changed time.Time
	bytes   int64
}

// folder is one below images that is no view of this version.
type folder struct {
	name  string
	newer bool
}

// locked is a key whose claim and folder the survey has locked.
type locked struct {
	key    string
	claim  *flock.Flock
	folder *os.File // nil without one
}

func (l locked) close() {
	if l.folder != nil {
		_ = l.folder.Close()
	}
	_ = l.claim.Unlock()
}

// survey reads the leases before it asks for the holders.
func (s *Store) survey(ctx context.Context, holders func(context.Context) ([]Holder, error)) (*survey, error) {
	v := &survey{store: s, folders: map[uint64]folder{}, busy: map[string]string{}}
	var err error
	if v.holders, v.leases, v.blind, err = s.held(); err != nil {
		return nil, err
	}
	if holders != nil {
		more, err := holders(ctx)
		if err != nil {
			return nil, err
		}
		v.holders = append(v.holders, more...)
	}
	s.eachFolder(v.visit)
	err = errors.Join(v.readObjects(), v.readPartials(), v.readTemps(), v.readReleases())
	if err != nil {
		v.keepLocks(choice{})
		return nil, err
	}
	return v, nil
}

func (v *survey) visit(dir string, view View, err error) {
	if err == nil {
		v.views = append(v.views, view)
		return
	}
	name, _ := filepath.Rel(v.store.home, dir)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if identity, failed := identify(filepath.Join(dir, entry.Name())); failed == nil {
			v.folders[identity.Inode] = folder{name, errors.Is(err, errNewer)}
		}
	}
}

func (v *survey) readObjects() error {
	keys, err := keysIn(v.store.objects)
	for _, key := range keys {
		if object := v.store.look(key); object.State != Absent {
			v.objects = append(v.objects, object)
			v.claim(key)
		}
	}
	return err
}

func (v *survey) readPartials() error {
	keys, err := keysIn(v.store.partials)
	for _, key := range keys {
		p := partial{key: key}
		_ = filepath.WalkDir(filepath.Join(v.store.partials, key), func(path string, _ fs.DirEntry, _ error) error {
			if info, err := os.Lstat(path); err == nil && info.ModTime().After(p.changed) {
				p.changed = info.ModTime()
			}
			if identity, err := identify(path); err == nil {
				p.bytes += identity.Blocks * 512
			}
			return nil
		})
		v.partials = append(v.partials, p)
		v.claim(key)
	}
	return err
}

func (v *survey) readTemps() error {
	entries, err := os.ReadDir(v.store.tmp)
	if err != nil {
		return storage(v.store.tmp, "list", err)
	}
	for _, entry := range entries {
		if v.isDead(entry.Name()) {
			v.temps = append(v.temps, filepath.Join(v.store.tmp, entry.Name()))
		}
	}
	return nil
}

func (v *survey) readReleases() error {
	releases, err := os.ReadDir(v.store.images)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storage(v.store.images, "list", err)
	}
	for _, release := range releases {
		dir := filepath.Join(v.store.images, release.Name())
		if images, err := os.ReadDir(dir); err == nil && len(images) == 0 && release.IsDir() {
			v.empty = append(v.empty, dir)
		}
	}
	return nil
}

// isDead is the store's, but knows that the survey itself holds claims.
func (v *survey) isDead(name string) bool {
	for _, l := range v.locks {
		if len(name) > len(l.key) && name[:len(l.key)+1] == l.key+"-" {
			return true
		}
	}
	return v.store.isDead(name)
}

// keysIn are the keys among a folder's names, sorted; others belong to another
// version.
func keysIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, storage(dir, "list", err)
	}
	var keys []string
	for _, entry := range entries {
		if manifest.IsSHA256(entry.Name()) {
			keys = append(keys, entry.Name())
		}
	}
	return keys, nil
}

// claim takes the claim of a key without waiting, and locks the object's folder
// against the leases of those who cannot write.
func (v *survey) claim(key string) {
	if v.busy[key] != "" || slices.ContainsFunc(v.locks, func(l locked) bool { return l.key == key }) {
		return
	}
	claim, err := v.store.try(key)
	if err != nil || claim == nil {
		v.busy[key] = otherProcess
		return
	}
	l := locked{key: key, claim: claim}
	if l.folder, err = openFolder(v.store.folder(key)); err == nil {
		if unix.Flock(int(l.folder.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			v.busy[key] = otherUser
		}
	} else {
		l.folder = nil
	}
	v.locks = append(v.locks, l)
}

// keepLocks gives back the locks of all that stays, and returns the others.
func (v *survey) keepLocks(c choice) []locked {
	goes := map[string]bool{}
	for _, object := range c.objects {
		goes[object.Key] = true
	}
	for _, key := range c.partials {
		goes[key] = true
	}
	var kept []locked
	for _, l := range v.locks {
		if goes[l.key] {
			kept = append(kept, l)
		} else {
			l.close()
		}
	}
	v.locks = nil
	return kept
}

// imageHolder is who needs an image: who needs all of its objects.
func (v *survey) imageHolder(view View) string {
	if v.blind {
		return newerVersion
	}
	for _, holder := range v.holders {
		if len(view.Files) > 0 && !slices.ContainsFunc(view.Files, func(f ViewFile) bool { return !slices.Contains(holder.Keys, f.Key) }) {
			return holder.Name
		}
	}
	return ""
}

// objectHolder is who needs an object. All leaves out those who only may.
func (v *survey) objectHolder(key string, all bool) string {
	if by := v.partialHolder(key); by != "" {
		return by
	}
	i := slices.IndexFunc(v.objects, func(o Object) bool { return o.Key == key })
	if v.objects[i].State == Foreign {
		return newerVersion
	}
	identity, err := identify(v.objects[i].Path)
	if err != nil {
		return ""
	}
	if f, linked := v.folders[identity.Inode]; linked && (f.newer || !all) {
		return f.name
	}
	return ""
}

func (v *survey) partialHolder(key string) string {
	if v.blind {
		return newerVersion
	}
	for _, holder := range v.holders {
		if slices.Contains(holder.Keys, key) {
			return holder.Name
		}
	}
	return v.busy[key]
}

// allocated is what all objects and the partials that stay take on disk.
func (v *survey) allocated(without []string) int64 {
	var sum int64
	for _, object := range v.objects {
		sum += object.Allocated
	}
	for _, p := range v.partials {
		if !slices.Contains(without, p.key) {
			sum += p.bytes
		}
	}
	return sum
}
