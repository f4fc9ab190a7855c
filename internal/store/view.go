package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/manifest"
)

const (
	sidecarSuffix = ".from-sha256"
	viewFile      = ".image.json"
	maxView       = 64 << 10
)

// View is the folder that shows people the files of one image.
type View struct {
	Schema  int        `json:"schema"` // set by the store
	Release string     `json:"release"`
	Preset  string     `json:"preset"`
	Arch    string     `json:"arch"`
	VMM     string     `json:"vmm"`
	Files   []ViewFile `json:"files"`
}

// ViewFile is one file of a view.
type ViewFile struct {
	Name    string `json:"name"`    // kernel, modules.cpio, base.ext4
	Key     string `json:"key"`     // of the object
	Archive string `json:"archive"` // SHA-256 of the published archive, the sidecar's content
	// Unlinked is set by the store where the file system allows no hard link: the
	// view then shows the sidecar alone.
	Unlinked bool `json:"unlinked,omitempty"`
}

// Folder is where the view is shown.
func (s *Store) Folder(v View) string {
	return filepath.Join(s.images, v.Release, strings.Join([]string{v.Preset, v.Arch, v.VMM}, "-"))
}

// Show makes the view's folder, or replaces it where it differs. All its objects
// have to be Ready. A view that is right already is not touched, and found to be
// right without the lock.
func (s *Store) Show(ctx context.Context, v View) error {
	v.Schema = schema
	if err := v.validate(); err != nil {
		return err
	}
	if s.isShown(v) {
		return nil
	}
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := s.show(v); err != nil {
		return fmt.Errorf("show %s: %w", s.Folder(v), err)
	}
	return nil
}

// show builds the whole folder in tmp, so that a file is never seen beside
// another image's sidecar.
func (s *Store) show(v View) error {
	release := filepath.Dir(s.Folder(v))
	if err := ensureDir(release); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.tmp, metaPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	known := s.known(v)
	for i := range v.Files {
		if _, ok := known[v.Files[i].Key]; !ok {
			return fmt.Errorf("%s: its object is %s", v.Files[i].Name, s.look(v.Files[i].Key).State)
		}
		if err := s.link(dir, &v.Files[i]); err != nil {
			return err
		}
	}
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, viewFile), append(raw, '\n'), 0o444); err != nil {
		return err
	}
	return errors.Join(s.publish(dir, s.Folder(v)), s.relearn(known))
}

// link adds one file and its sidecar.
func (s *Store) link(dir string, f *ViewFile) error {
	path := filepath.Join(dir, f.Name)
	if err := os.Link(filepath.Join(s.folder(f.Key), contentFile), path); err != nil {
		f.Unlinked = true
	}
	return writeFile(path+sidecarSuffix, sidecar(*f), 0o444)
}

// known are the records of the Ready objects that showing the view will link or
// unlink: its own files and those of the folder it replaces.
func (s *Store) known(v View) map[string]record {
	known := map[string]record{}
	old, _ := s.readView(s.Folder(v)) // not there, or not ours: nothing to relearn
	for _, f := range append(old.Files, v.Files...) {
		if s.look(f.Key).State != Ready {
			continue
		}
		if rec, err := s.readRecord(f.Key); err == nil {
			known[f.Key] = rec
		}
	}
	return known
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
		if err := s.writeRecord(key, rec.Origin, now); err != nil {
			return err
		}
	}
	return nil
}

func sidecar(f ViewFile) []byte { return []byte(f.Archive + "\n") }

// isShown compares every file with its object and every sidecar with its digest.
func (s *Store) isShown(v View) bool {
	there, err := s.readView(s.Folder(v))
	if err != nil || len(there.Files) != len(v.Files) {
		return false
	}
	for i, f := range v.Files {
		f.Unlinked = there.Files[i].Unlinked
		if there.Files[i] != f || !s.isLinked(s.Folder(v), f) {
			return false
		}
	}
	return there.Release == v.Release && there.Preset == v.Preset && there.Arch == v.Arch && there.VMM == v.VMM
}

func (s *Store) isLinked(dir string, f ViewFile) bool {
	path := filepath.Join(dir, f.Name)
	mark, err := readFile(path+sidecarSuffix, 128)
	if err != nil || !bytes.Equal(mark, sidecar(f)) {
		return false
	}
	if f.Unlinked {
		return true
	}
	shown, err := os.Lstat(path)
	if err != nil {
		return false
	}
	object, err := os.Lstat(filepath.Join(s.folder(f.Key), contentFile))
	return err == nil && os.SameFile(shown, object)
}

func (s *Store) readView(dir string) (View, error) {
	for _, d := range []string{filepath.Dir(dir), dir} {
		if info, err := os.Lstat(d); err != nil || !info.IsDir() {
			return View{}, errors.Join(err, fmt.Errorf("%s is not a folder", d))
		}
	}
	raw, err := readFile(filepath.Join(dir, viewFile), maxView)
	if err != nil {
		return View{}, err
	}
	var v View
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return View{}, fmt.Errorf("read %s: %w", dir, err)
	}
	if v.Schema != schema {
		return View{}, fmt.Errorf("read %s: schema %d", dir, v.Schema)
	}
	return v, v.validate()
}

// validate keeps a view inside its folder, whoever wrote it.
func (v View) validate() error {
	for _, name := range []string{v.Release, v.Preset, v.Arch, v.VMM} {
		if !fs.ValidPath(name) || strings.ContainsAny(name, "/\\") || strings.HasPrefix(name, ".") {
			return fmt.Errorf("show an image: %.80q is not a plain name", name)
		}
	}
	for _, f := range v.Files {
		if !fs.ValidPath(f.Name) || strings.ContainsAny(f.Name, "/\\") || strings.HasPrefix(f.Name, ".") {
			return fmt.Errorf("show an image: %.80q is not a plain file name", f.Name)
		}
		if !manifest.IsSHA256(f.Key) || !manifest.IsSHA256(f.Archive) {
			return fmt.Errorf("show an image: %s has no digest", f.Name)
		}
	}
	return nil
}
