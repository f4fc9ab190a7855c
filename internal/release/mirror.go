package release

import (
	"context"
	"errors"

	"github.com/smolvm/smolvm/internal/resolve"
)

// MirrorOptions say where the bytes come from and who may have written what
// already lies at the destination.
type MirrorOptions struct {
	Options
	// Source reads the manifest that a folder holds already.
	Source resolve.Source
	// Rules are those the catalogue was believed by; their memory is not used.
	Rules resolve.Rules
}

// Mirrored is what Mirror made.
type Mirrored struct {
	Address string `json:"manifest"` // to use with --manifest
	Release string `json:"release"`
	Serial  int64  `json:"serial"`
	Files   int    `json:"files"`  // in the mirror
	Copied  int64  `json:"copied"` // bytes that were not there before
	Bytes   int64  `json:"bytes"`  // of all files
}

// Mirror copies everything that a catalogue's manifest names to a folder or to
// an oci://HOST/REPOSITORY:TAG, the manifest last. What is there already and
// right is not copied again, and nothing is ever replaced by other bytes but a
// manifest by a newer one of the same publisher.
func Mirror(ctx context.Context, c resolve.Catalogue, dest string, o MirrorOptions) (Mirrored, error) {
	return Mirrored{}, errors.ErrUnsupported
}
