package cli

import (
	"context"
	"io"
	"os"

	"github.com/smolvm/smolvm/internal/config"
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
		key, err := readKeyFile(path, "--trusted-key")
		if err != nil {
			return c, err
		}
		c.TrustedKeys = append(c.TrustedKeys, key)
	}
	return c, nil
}

// readKeyFile reads a file with a public key. What it is, is for messages.
func readKeyFile(path, what string) (string, error) {
	const hint = "It holds a minisign public key, as minisign -G writes it."
	file, err := os.Open(path)
	if err != nil {
		return "", fault.New(fault.Usage, hint, "read %s: %w", what, err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return "", fault.New(fault.Usage, hint, "read %s: %w", what, err)
	}
	if _, err := trust.KeyID(string(data)); err != nil || len(data) > maxKeyFile {
		return "", fault.New(fault.Usage, hint, "%s: %s holds no public key", what, path)
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
	address := resolve.Address(c)
	rules, err := a.rulesAt(address)
	if err != nil {
		return resolve.Catalogue{}, err
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
	rules, err := resolve.Believe(c, address, a.Now)
	rules.Version, rules.Sink = a.Build.Version, a.Progress()
	return rules, err
}
