package resolve

import (
	"path/filepath"
	"time"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
)

// Address is the catalogue of a run: the one that was named, else the release's.
func Address(c config.Config) string {
	if c.Manifest != "" {
		return c.Manifest
	}
	return embedded.Release().Manifest
}

// Believe says what is believed of the catalogue at an address: the keys of its
// entry in the configuration, or else those of this build, and the keys that were
// named for this run. The sink is left to the caller.
func Believe(c config.Config, address string, now func() time.Time) (Rules, error) {
	release := embedded.Release()
	roots, err := rootsOf(c, address)
	if err != nil {
		return Rules{}, err
	}
	rules := Rules{
		Policy:  trust.Policy{Roots: roots, Development: release.Development, Now: now(), Floor: release.Built},
		Memory:  trust.NewMemory(filepath.Join(c.Home, "trust"), now),
		Version: release.Version,
	}
	if entry, ok := c.Catalogue(address); ok {
		rules.Mirrors = entry.Mirrors
	}
	if release.Manifest != "" && config.SameAddress(address, release.Manifest) {
		rules.Carried = carriedManifest()
	}
	if rules.Carried != nil {
		if m, err := manifest.Parse(rules.Carried.Raw); err == nil {
			rules.FloorSerial = m.Serial
		}
	}
	return rules, nil
}

func carriedManifest() *trust.Document {
	raw, signatures, ok := embedded.ReleaseManifest()
	if !ok {
		return nil
	}
	return &trust.Document{Raw: raw, Signatures: signatures}
}

func rootsOf(c config.Config, address string) ([]trust.Root, error) {
	var roots []trust.Root
	if entry, ok := c.Catalogue(address); ok && len(entry.Keys) > 0 {
		roots = append(roots, trust.Root{Keys: entry.Keys, Threshold: entry.Threshold})
	} else {
		root, err := BuiltIn()
		if err != nil {
			return nil, err
		}
		if len(root.Keys) > 0 {
			roots = append(roots, root)
		}
	}
	for _, key := range c.TrustedKeys {
		roots = append(roots, trust.Root{Keys: []string{key}, Threshold: 1})
	}
	return roots, nil
}

// BuiltIn is the root that this program was built with: a release's key list or
// keys, or the development key. It has no keys where there are none.
func BuiltIn() (trust.Root, error) {
	if raw, ok := embedded.KeyList(); ok {
		list, err := trust.ParseKeyList(raw)
		if err != nil {
			return trust.Root{}, fault.New(fault.Internal, "Install smolvm again.", "read the keys in this program: %w", err)
		}
		return list.Root(), nil
	}
	return trust.Root{Keys: embedded.Keys(), Threshold: embedded.Threshold()}, nil
}
