package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
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
	source, rules := fetch.New(fetch.Options{UserAgent: "smolvm/" + a.Build.Version}), a.rules(c)
	release := embedded.Release()
	if c.Manifest != "" || release.Manifest == "" {
		return resolve.LoadCatalogue(ctx, source, c.Manifest, rules)
	}
	if raw, signatures, there := embedded.ReleaseManifest(); there {
		own, err := resolve.LoadCatalogue(ctx, carried{release.Manifest, raw, signatures}, release.Manifest, rules)
		if err == nil && !own.Expired {
			return own, nil
		}
	}
	return resolve.LoadCatalogue(ctx, source, release.Manifest, rules)
}

// rules say which manifests are believed.
func (a *App) rules(c config.Config) resolve.Rules {
	release := embedded.Release()
	return resolve.Rules{
		Policy: trust.Policy{
			Keys: append(embedded.Keys(), c.TrustedKeys...), Threshold: 1, Now: a.Now(), Floor: release.Built,
		},
		Memory:  trust.NewMemory(filepath.Join(c.Home, "trust"), a.Now),
		Version: a.Build.Version,
		Sink:    a.Progress(),
	}
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

// pull brings an image of the catalogue into the cache.
func (a *App) pull(ctx context.Context, found resolve.Catalogue, row manifest.Row) (record.Image, error) {
	images, err := a.openStore()
	if err != nil {
		return record.Image{}, err
	}
	plan, err := found.Plan(ctx, row, images)
	if err != nil {
		return record.Image{}, err
	}
	source := fetch.New(fetch.Options{UserAgent: "smolvm/" + a.Build.Version})
	return acquire.New(images, source, a.Progress(), a.Now).Run(ctx, plan)
}

// intact makes sure that what a sandbox boots is still what was verified.
func (a *App) intact(ctx context.Context, image record.Image) error {
	images, err := a.openStore()
	if err != nil {
		return err
	}
	return acquire.New(images, nil, a.Progress(), a.Now).Check(ctx, image)
}

// cached lists the images in the cache.
func (a *App) cached() ([]store.Image, error) {
	images, err := a.openStore()
	if err != nil {
		return nil, err
	}
	list, err := images.Images()
	if list == nil {
		list = []store.Image{} // JSON has an empty array for it, not null
	}
	return list, err
}

func (a *App) openStore() (*store.Store, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	return store.Open(c.Home)
}
