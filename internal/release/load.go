package release

import (
	"context"
	"errors"
	"io"

	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
)

// LoadOptions say whom to believe.
type LoadOptions struct {
	Options
	// Address is that of the catalogue the images shall belong to; empty: the one
	// that the tar names. A launch by that address then works without a network.
	Address string
	// Rules are those of the catalogue at an address.
	Rules func(address string) (resolve.Rules, error)
}

// Loaded is what Load took in.
type Loaded struct {
	Address string   `json:"manifest"`
	Release string   `json:"release"`
	Serial  int64    `json:"serial"`
	Signers []string `json:"signers"`
	Images  []Image  `json:"images"`
	Added   []string `json:"added"` // names of assets that were not here before
	Bytes   int64    `json:"bytes"` // of the tar
}

// Load reads a tar that Save wrote, once, from its first byte to its last, and
// makes its images be here. On an error nothing of it is visible.
func Load(ctx context.Context, st *store.Store, src io.Reader, o LoadOptions) (Loaded, error) {
	return Loaded{}, errors.ErrUnsupported
}
