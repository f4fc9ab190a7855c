package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// scale adds up what the disk gains when files go: each inode once, and only when
// its last name goes.
type scale struct {
	items []PrunedItem
	files map[[2]uint64]*weight
}

// weight is one inode.
type weight struct {
	item           int // that counts it
	names, removed uint64
	bytes          int64
}

// weigh describes a choice. Objects come first, so that a file that an image shows
// counts as the object's.
func (s *Store) weigh(c choice) Pruned {
	w := &scale{items: []PrunedItem{}, files: map[[2]uint64]*weight{}}
	for _, object := range c.objects {
		w.add("object", nameOf(object), s.folder(object.Key))
	}
	for _, key := range c.partials {
		w.add("partial", key[:12], filepath.Join(s.partials, key))
	}
	p := Pruned{Images: []string{}, Objects: len(c.objects), Partials: len(c.partials), Held: c.held}
	for _, v := range c.images {
		w.add("image", v.Name(), s.Folder(v))
		p.Images = append(p.Images, v.Name())
	}
	s.weighReleases(w, c.images)
	for _, path := range slices.Concat(c.temps, c.leases, c.empty) {
		w.add("temp", filepath.Base(path), path)
	}
	p.Items, p.Freed = w.sum()
	if p.Held == nil {
		p.Held = []Held{}
	}
	return p
}

// weighReleases adds the folders of releases that lose their last image.
func (s *Store) weighReleases(w *scale, images []View) {
	going := map[string]int{}
	for _, v := range images {
		dir := filepath.Dir(s.Folder(v))
		going[dir]++
		entries, err := os.ReadDir(dir)
		if err == nil && len(entries) == going[dir] {
			w.addDir(dir, len(w.items)-1)
		}
	}
}

// add weighs everything at a path as one item.
func (w *scale) add(kind, name, path string) {
	w.items = append(w.items, PrunedItem{Kind: kind, Name: name})
	item := len(w.items) - 1
	_ = filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil: // what cannot be looked at is not counted
		case entry.IsDir():
			w.addDir(path, item)
		default:
			w.addFile(path, item)
		}
		return nil
	})
}

func (w *scale) addDir(path string, item int) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil {
		w.items[item].Bytes += st.Blocks * 512
	}
}

func (w *scale) addFile(path string, item int) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return
	}
	inode := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // the types differ between systems
	if w.files[inode] == nil {
		w.files[inode] = &weight{item: item, names: uint64(st.Nlink), bytes: st.Blocks * 512} //nolint:unconvert // as above
	}
	w.files[inode].removed++
}

func (w *scale) sum() (items []PrunedItem, freed int64) {
	for _, file := range w.files {
		if file.removed >= file.names {
			w.items[file.item].Bytes += file.bytes
		}
	}
	for _, item := range w.items {
		freed += item.Bytes
	}
	return w.items, freed
}
