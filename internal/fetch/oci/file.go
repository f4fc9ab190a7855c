// Package oci finds files in an OCI registry and puts them there.
package oci

import "io"

// File is one file of a release as it is pushed.
type File struct {
	Name   string // as the manifest names it; it becomes the layer's title
	Size   int64
	SHA256 string                        // hex digest of its bytes
	Open   func() (io.ReadCloser, error) // from the first byte; may be called again
}
