package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Names in the folder of a view, and the bound of its description in bytes.
const (
	sidecarSuffix = ".from-sha256"
	archiveSuffix = ".zst"
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
	// Copies is set by the store where the file system allows no hard links: the
	// files that are copies, as they were when they were made.
	Copies map[string]Identity `json:"copies,omitempty"`
}

// ViewFile is one file of a view. A kept archive is shown beside it.
type ViewFile struct {
	Name    string `json:"name"`    // kernel, modules.cpio, base.ext4
	Key     string `json:"key"`     // of the object
	Archive string `json:"archive"` // SHA-256 of the published archive, the sidecar's content
}

// Name is the view's folder below images.
func (v View) Name() string {
	return filepath.Join(v.Release, strings.Join([]string{v.Preset, v.Arch, v.VMM}, "-"))
}

// Folder is where the view is shown.
func (s *Store) Folder(v View) string { return filepath.Join(s.images, v.Name()) }

func (v View) shows(key string) bool {
	return slices.ContainsFunc(v.Files, func(f ViewFile) bool { return f.Key == key })
}

func sidecar(f ViewFile) []byte { return []byte(f.Archive + "\n") }

// views are those that can be read, sorted by release and name.
func (s *Store) views() []View {
	var views []View
	s.eachFolder(func(_ string, v View, err error) {
		if err == nil {
			views = append(views, v)
		}
	})
	return views
}

// eachFolder visits the folders two levels below images, with the view that is
// shown there or the reason why it is none.
func (s *Store) eachFolder(visit func(dir string, v View, err error)) {
	releases, _ := os.ReadDir(s.images)
	for _, release := range releases {
		folders, err := os.ReadDir(filepath.Join(s.images, release.Name()))
		if err != nil || !release.IsDir() {
			continue
		}
		for _, folder := range folders {
			dir := filepath.Join(s.images, release.Name(), folder.Name())
			v, err := s.readView(dir)
			if err == nil && s.Folder(v) != dir {
				err = fmt.Errorf("read %s: it describes %s", dir, v.Name())
			}
			visit(dir, v, err)
		}
	}
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
	if err := decode(raw, &v); err != nil {
		return View{}, fmt.Errorf("read %s: %w", dir, err)
	}
	return v, v.validate()
}

// validate keeps a view inside its folder, whoever wrote it, and its files apart,
// also where upper and lower case are the same.
func (v View) validate() error {
	for _, name := range []string{v.Release, v.Preset, v.Arch, v.VMM} {
		if !isPlain(name) {
			return fmt.Errorf("show an image: %.80q is not a plain name", name)
		}
	}
	taken := map[string]bool{}
	for _, f := range v.Files {
		if !isPlain(f.Name) {
			return fmt.Errorf("show an image: %.80q is not a plain file name", f.Name)
		}
		if !manifest.IsSHA256(f.Key) || !manifest.IsSHA256(f.Archive) {
			return fmt.Errorf("show an image: %s has no digest", f.Name)
		}
		for _, suffix := range []string{"", sidecarSuffix, archiveSuffix} {
			name := strings.ToLower(f.Name + suffix)
			if taken[name] {
				return fmt.Errorf("show an image: two files are called %.80q", name)
			}
			taken[name] = true
		}
	}
	return nil
}

// isPlain tells whether a name is one visible element of a path, free of what a
// terminal would act on.
func isPlain(name string) bool {
	control := func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' || r == '\\' }
	return fs.ValidPath(name) && len(name) <= 200 && !strings.HasPrefix(name, ".") && !strings.ContainsFunc(name, control)
}
