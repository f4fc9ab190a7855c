package release

import (
	"context"
	"errors"
	"io"

	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
)

// Saved is what Save wrote.
type Saved struct {
	Address string  `json:"manifest"` // of the catalogue, as the tar names it
	Release string  `json:"release"`
	Serial  int64   `json:"serial"`
	Images  []Image `json:"images"`
	Bytes   int64   `json:"bytes"` // of the tar
}

// Save writes images of a catalogue that are here to dst as one tar. The same
// images of the same manifest always give the same bytes. After an error dst
// holds something that Load refuses.
func Save(ctx context.Context, st *store.Store, c resolve.Catalogue, images []Image, dst io.Writer, o Options) (Saved, error) {
	return Saved{}, errors.ErrUnsupported
}

// SaveFile is Save to a file, which appears when it is complete and on disk.
func SaveFile(ctx context.Context, st *store.Store, c resolve.Catalogue, images []Image, path string, o Options) (Saved, error) {
	return Saved{}, errors.ErrUnsupported
}
