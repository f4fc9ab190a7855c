package oci

import (
	"fmt"
	"io"
)

// File is one file of a release as it is pushed.
type File struct {
	Name   string // as the manifest names it; it becomes the layer's title
	Size   int64
	SHA256 string                        // hex digest of its bytes
	Open   func() (io.ReadCloser, error) // from the first byte; may be called again
}

// check refuses files that could not be found again.
func check(files []File) error {
	names := map[string]bool{}
	for _, f := range files {
		switch {
		case f.Name == "" || f.Size < 0 || !isSHA256(f.SHA256) || f.Open == nil:
			return fmt.Errorf("%w file to push: name %.80q, size %d, SHA-256 %.80q", ErrInvalid, f.Name, f.Size, f.SHA256)
		case names[f.Name]:
			return fmt.Errorf("%w file to push: %.80q is given twice", ErrInvalid, f.Name)
		}
		names[f.Name] = true
	}
	return nil
}
