package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
)

// maxKeyFile bounds a file with a public key; real ones have about 120 bytes.
const maxKeyFile = 4 << 10

// loadConfig reads the environment and lets the flags overrule it.
func (a *App) loadConfig() (config.Config, error) {
	c, err := config.Load(a.Environ, a.UserHome)
	if err != nil {
		return c, err
	}
	if a.global.Manifest != "" {
		if c.Manifest, err = config.ManifestAddress(a.global.Manifest); err != nil {
			return c, err
		}
	}
	for _, path := range a.global.TrustedKey {
		key, err := readKey(path)
		if err != nil {
			return c, err
		}
		c.TrustedKeys = append(c.TrustedKeys, key)
	}
	return c, nil
}

// readKey reads the file of --trusted-key.
func readKey(path string) (string, error) {
	const hint = "It holds a minisign public key, as minisign -G writes it."
	file, err := os.Open(path)
	if err != nil {
		return "", fault.New(fault.Usage, hint, "read --trusted-key: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return "", fault.New(fault.Usage, hint, "read --trusted-key: %w", err)
	}
	if _, err := trust.KeyID(string(data)); err != nil || len(data) > maxKeyFile {
		return "", fault.New(fault.Usage, hint, "--trusted-key %s holds no public key", path)
	}
	return string(data), nil
}

// loadCatalogue gives the manifest that is believed: the one that was named, or
// a release's own, which is asked for at its address only once the copy in the
// program has expired.
func (a *App) loadCatalogue(ctx context.Context) (resolve.Catalogue, error) {
	c, err := a.Config()
	if err != nil {
		return resolve.Catalogue{}, err
	}
	done := event.Span(a.Progress(), a.Now, event.Resolve, "")
	defer done(0)
	release, address := embedded.Release(), c.Manifest
	if address == "" {
		address = release.Manifest
	}
	rules, err := a.rulesAt(address)
	if err != nil {
		return resolve.Catalogue{}, err
	}
	if c.Manifest != "" || address == "" {
		return resolve.LoadCatalogue(ctx, a.source(), address, rules)
	}
	if raw, signatures, there := embedded.ReleaseManifest(); there {
		own, err := resolve.LoadCatalogue(ctx, carried{address, raw, signatures}, address, rules)
		if err == nil && !own.Expired {
			return own, nil
		}
	}
	return resolve.LoadCatalogue(ctx, a.source(), address, rules)
}

// source opens published files.
func (a *App) source() *fetch.Source {
	return fetch.New(fetch.Options{UserAgent: "smolvm/" + a.Build.Version})
}

// rulesAt say what is believed of the catalogue at an address.
func (a *App) rulesAt(address string) (resolve.Rules, error) {
	c, err := a.Config()
	if err != nil {
		return resolve.Rules{}, err
	}
	release := embedded.Release()
	return resolve.Rules{
		Policy: trust.Policy{
			Roots: roots(c, address), Development: release.Development, Now: a.Now(), Floor: release.Built,
		},
		Memory:  a.memory(c),
		Version: a.Build.Version,
		Sink:    a.Progress(),
	}, nil
}

// roots are whom a catalogue is believed from: its own keys in the configuration,
// else the built-in ones, and each key that the user named for this run.
func roots(c config.Config, address string) []trust.Root {
	var all []trust.Root
	if entry, there := c.Catalogue(address); there && len(entry.Keys) > 0 {
		all = append(all, trust.Root{Keys: entry.Keys, Threshold: entry.Threshold})
	} else if keys := embedded.Keys(); len(keys) > 0 {
		all = append(all, trust.Root{Keys: keys, Threshold: 1})
	}
	for _, key := range c.TrustedKeys {
		all = append(all, trust.Root{Keys: []string{key}, Threshold: 1})
	}
	return all
}

// memory is what was seen of catalogues.
func (a *App) memory(c config.Config) *trust.Memory {
	return trust.NewMemory(filepath.Join(c.Home, "trust"), a.Now)
}

// carried answers for the address of a release's manifest with the copy that
// the program carries.
type carried struct {
	address    string
	raw        []byte
	signatures map[string][]byte
}

// Get gives the copy or one of its signatures; there is nothing else.
func (s carried) Get(_ context.Context, address string, _ int64) ([]byte, error) {
	if address == s.address {
		return s.raw, nil
	}
	for id, signature := range s.signatures {
		if address == trust.SignatureFile(s.address, id) {
			return signature, nil
		}
	}
	return nil, fmt.Errorf("%s is not carried by this program: %w", address, fs.ErrNotExist)
}
