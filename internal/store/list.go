package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/manifest"
)

// Image is one entry of the listing.
type Image struct {
	View
	Path      string      `json:"path"`
	Assets    []ImageFile `json:"assets"`
	Size      int64       `json:"size"`      // bytes of all files as programs see them
	Allocated int64       `json:"allocated"` // bytes on disk; shared files count in every image
}

// ImageFile is one file of a listed image.
type ImageFile struct {
	Name      string `json:"name"`
	SHA256    string `json:"sha256"` // of the expanded file
	Size      int64  `json:"size"`
	Allocated int64  `json:"allocated"`
	State     State  `json:"state"`
	Archive   bool   `json:"archive_kept,omitempty"`
}

// Images lists what is here, sorted by release and name. Folders that are not
// complete images are left out.
func (s *Store) Images() ([]Image, error) {
	if _, err := os.ReadDir(s.images); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, storage(s.images, "list", err)
	}
	var images []Image
	for _, v := range s.views() {
		images = append(images, s.describe(v))
	}
	return images, nil
}

func (s *Store) describe(v View) Image {
	image := Image{View: v, Path: s.Folder(v)}
	for _, f := range v.Files {
		object := s.look(f.Key)
		image.Assets = append(image.Assets, ImageFile{
			Name: f.Name, SHA256: object.Origin.Content.SHA256,
			Size: object.Origin.Content.Size, Allocated: object.Allocated, State: object.State,
			Archive: object.Archive != "",
		})
		image.Size += object.Origin.Content.Size
		image.Allocated += object.Allocated
	}
	return image
}

// Partial estimates how much of an object an interrupted download has left: the
// bytes that its content takes on disk, 0 where there is none. Nothing of it was
// verified, and empty parts take no space, so it is less than a complete one's size.
func (s *Store) Partial(key string) int64 {
	if !manifest.IsSHA256(key) {
		return 0
	}
	now, err := identify(filepath.Join(s.partials, key, contentFile))
	if err != nil {
		return 0
	}
	return now.Blocks * 512
}

// Usage is what all objects take on disk in bytes, each counted once.
func (s *Store) Usage() (int64, error) {
	entries, err := os.ReadDir(s.objects)
	if err != nil {
		return 0, storage(s.objects, "list", err)
	}
	var total int64
	for _, entry := range entries {
		if !manifest.IsSHA256(entry.Name()) {
			continue
		}
		total += s.look(entry.Name()).Allocated
	}
	return total, nil
}
