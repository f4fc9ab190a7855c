package imagebuild

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// Signing adds signatures to the manifest of a published folder.
type Signing struct {
	Dir     string
	Signers []Signer
	Now     func() time.Time
	Sink    event.Sink
}

// Signed is a manifest and who signed it.
type Signed struct {
	Manifest string   `json:"manifest"`
	Release  string   `json:"release"`
	Serial   int64    `json:"serial"`
	Signers  []string `json:"signers"` // ids of the keys that signed now
	Missing  int      `json:"missing"` // signatures that the folder's key list still wants
}

// Sign writes the signatures beside the manifest, which stays as it is. Keys that
// nobody would believe are refused before anything is written.
func (s Signing) Sign(ctx context.Context) (Signed, error) {
	if _, err := os.Stat(s.Dir); err != nil {
		return Signed{}, fault.New(fault.NotFound, "Publish there first: smolvm image publish --no-sign", "sign %s: %w", s.Dir, err)
	}
	lock, err := lockFolder(ctx, s.Dir, s.Sink)
	if err != nil {
		return Signed{}, err
	}
	defer lock.Close()
	m, raw, err := s.manifest()
	if err != nil {
		return Signed{}, err
	}
	list, err := newestKeyList(s.Dir)
	if err != nil {
		return Signed{}, err
	}
	for _, signer := range s.Signers {
		if list.Version > 0 && !list.has(signer.Public) {
			id, _ := trust.KeyID(signer.Public) // only to be shown
			return Signed{}, fault.New(fault.Usage, "Sign with one of its keys, or publish a newer key list.",
				"sign %s: key %s is not in its %s", s.Dir, id, trust.KeyListFile(list.Version))
		}
	}
	signatures, err := sign(raw, s.Signers)
	if err != nil {
		return Signed{}, err
	}
	if err := writeSignatures(s.Dir, ManifestFile, signatures); err != nil {
		return Signed{}, fault.New(fault.Storage, "", "sign %s: %w", s.Dir, err)
	}
	return Signed{
		Manifest: filepath.Join(s.Dir, ManifestFile), Release: m.Release, Serial: m.Serial,
		Signers: slices.Sorted(maps.Keys(signatures)), Missing: list.missing(raw, readSignatures(s.Dir, ManifestFile)),
	}, nil
}

// manifest reads what is to be signed: only what a client would accept.
func (s Signing) manifest() (manifest.Manifest, []byte, error) {
	raw, err := os.ReadFile(filepath.Join(s.Dir, ManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return manifest.Manifest{}, nil, fault.New(fault.NotFound, "Publish there first: smolvm image publish --no-sign", "sign %s: %w", s.Dir, err)
	}
	if err != nil {
		return manifest.Manifest{}, nil, fault.New(fault.Storage, "", "sign %s: %w", s.Dir, err)
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return m, nil, fault.New(fault.Conflict, "Publish it again.", "sign %s: %w", s.Dir, err)
	}
	if !s.Now().Before(m.Expires) {
		return m, nil, fault.New(fault.Conflict, "Publish it again: that makes a newer one.",
			"sign %s: its manifest has expired on %s", s.Dir, m.Expires.Format(time.DateOnly))
	}
	return m, raw, nil
}

// missing counts the signatures that the list wants and that are not there.
func (l listed) missing(raw []byte, signatures map[string][]byte) int {
	if l.Version == 0 {
		return 0
	}
	policy := trust.Policy{Roots: []trust.Root{l.Root()}, Development: true}
	signers, err := policy.Verify(raw, signatures)
	if err == nil {
		return 0
	}
	return l.Threshold - len(signers)
}
