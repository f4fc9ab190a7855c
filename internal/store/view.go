package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// errNoLink says that a file system allows no hard link.
var errNoLink = errors.New("no hard link")

// Show makes the view's folder, or replaces it where it differs. All its objects
// have to be Ready. A view that is right already is not touched, and found to be
// right without the lock.
func (s *Store) Show(ctx context.Context, v View) error {
	v.Schema, v.Copies = schema, nil
	if err := v.validate(); err != nil {
		return err
	}
	if s.isShown(v) {
		return nil
	}
	err := s.retiring(ctx, func(b *bin) error { return s.show(v, b, "") })
	if errors.Is(err, errNoLink) {
		err = s.showCopies(ctx, v)
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", s.Folder(v), err)
	}
	return nil
}

// showAgain brings the views of a replaced object up to date, under the store's
// lock. Where that fails or takes copies it is left to the next Show: a view is
// for people, and the object is there.
func (s *Store) showAgain(key string, b *bin) {
	for _, v := range s.views() {
		if v.shows(key) && !s.isShown(v) {
			_ = s.show(v, b, "")
		}
	}
}

// show builds the whole folder in tmp, so that a file is never seen beside
// another image's sidecar. The caller holds the store's lock.
func (s *Store) show(v View, b *bin, copies string) error {
	if s.isShown(v) { // another process was faster
		return nil
	}
	known, err := s.known(v)
	if err != nil {
		return err
	}
	if err := ensureDir(filepath.Dir(s.Folder(v))); err != nil {
		return err
	}
	dir, err := s.makeTemp(metaPrefix)
	if err != nil {
		return err
	}
	err = s.fill(dir, &v, copies)
	err = errors.Join(err, s.relearn(known)) // whatever was linked
	if err == nil {
		err = s.replaceView(dir, s.Folder(v), b)
	}
	if err != nil {
		return errors.Join(err, b.retire(dir))
	}
	return nil
}

// fill makes the files of a view in a folder of tmp.
func (s *Store) fill(dir string, v *View, copies string) error {
	v.Copies = nil
	for _, f := range v.Files {
		for name, from := range s.shown(f) {
			if err := s.place(dir, v, copies, name, from); err != nil {
				return err
			}
		}
		if err := s.writeFile(filepath.Join(dir, f.Name+sidecarSuffix), sidecar(f), 0o444); err != nil {
			return err
		}
	}
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := s.writeFile(filepath.Join(dir, viewFile), append(raw, '\n'), 0o444); err != nil {
		return err
	}
	return errors.Join(os.Chmod(dir, 0o755), s.syncDir(dir))
}

// shown are the files of the store that a file of a view consists of, by their
// names in the view.
func (s *Store) shown(f ViewFile) map[string]string {
	files := map[string]string{f.Name: filepath.Join(s.folder(f.Key), contentFile)}
	archive := filepath.Join(s.folder(f.Key), archiveFile)
	if _, err := identify(archive); err == nil {
		files[f.Name+archiveSuffix] = archive
	}
	return files
}

// place links one file into the folder, or moves the copy of it there.
func (s *Store) place(dir string, v *View, copies, name, from string) error {
	to := filepath.Join(dir, name)
	if copies == "" {
		if err := s.told("link", to, s.link(from, to)); err != nil {
			return fmt.Errorf("%w: %w", errNoLink, err)
		}
		return nil
	}
	if err := s.rename(filepath.Join(copies, name), to); err != nil {
		return err
	}
	identity, err := identify(to)
	if err != nil {
		return err
	}
	if v.Copies == nil {
		v.Copies = map[string]Identity{}
	}
	v.Copies[name] = identity
	return nil
}

// replaceView moves a finished folder of tmp to its place. What is there goes
// away first; a crash between the two leaves no view, and the next launch shows
// it again.
func (s *Store) replaceView(from, to string, b *bin) error {
	if err := b.retire(to); err != nil {
		return err
	}
	if err := s.rename(from, to); err != nil {
		return err
	}
	return errors.Join(s.syncDir(filepath.Dir(to)), s.syncDir(s.images))
}

// known are the records of the objects that showing the view will link.
func (s *Store) known(v View) (map[string]record, error) {
	known := map[string]record{}
	for _, f := range v.Files {
		if state := s.look(f.Key).State; state != Ready {
			return nil, fmt.Errorf("%s: its object is %s", f.Name, state)
		}
		rec, err := s.readRecord(f.Key)
		if err != nil {
			return nil, err
		}
		known[f.Key] = rec
	}
	return known, nil
}

// relearn records the identities again after our own links and unlinks, which
// change ctime and nothing else. If we die before it, the next launch verifies
// the bytes; if anything else has changed, too.
func (s *Store) relearn(known map[string]record) error {
	for key, rec := range known {
		now, err := identify(filepath.Join(s.folder(key), contentFile))
		if err != nil {
			return err
		}
		expected := rec.Identity
		expected.CTime = now.CTime
		if now != expected || now == rec.Identity {
			continue
		}
		now.settle()
		if err := s.writeRecord(key, rec.Origin, now); err != nil {
			return err
		}
	}
	return nil
}

// isShown compares every file with its object and every sidecar with its digest.
func (s *Store) isShown(v View) bool {
	there, err := s.readView(s.Folder(v))
	if err != nil || len(there.Files) != len(v.Files) {
		return false
	}
	for i, f := range v.Files {
		if there.Files[i] != f || !s.isPlaced(there, f) {
			return false
		}
	}
	return there.Release == v.Release && there.Preset == v.Preset && there.Arch == v.Arch && there.VMM == v.VMM
}

func (s *Store) isPlaced(there View, f ViewFile) bool {
	path := filepath.Join(s.Folder(there), f.Name)
	mark, err := readFile(path+sidecarSuffix, 128)
	if err != nil || !bytes.Equal(mark, sidecar(f)) {
		return false
	}
	files := s.shown(f)
	for name, from := range files {
		if !isSame(filepath.Join(s.Folder(there), name), from, there.Copies[name]) {
			return false
		}
	}
	_, err = os.Lstat(path + archiveSuffix)
	return (err == nil) == (len(files) > 1)
}

// isSame tells whether a file of a view is a link to the store's, or still the
// copy that was made of it.
func isSame(path, from string, copied Identity) bool {
	if copied != (Identity{}) {
		now, err := identify(path)
		return err == nil && now == copied
	}
	shown, err := os.Lstat(path)
	if err != nil {
		return false
	}
	stored, err := os.Lstat(from)
	return err == nil && os.SameFile(shown, stored)
}
