package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
)

func newConfigTrust(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "trust",
		Short: "Say whose signatures count for which catalogue, and which project files",
		Example: `  smolvm config trust add publisher.pub --catalogue https://example.org/images/
  smolvm config trust list`,
	})
	cmd.AddCommand(newTrustAdd(app, runTrustAdd), newTrustList(app, runTrustList), newTrustRemove(app, runTrustRemove),
		newTrustProject(app, runTrustProject))
	return cmd
}

// trustOptions are what `config trust add` and `remove` were asked for.
type trustOptions struct {
	Key       string // file, key or id
	Catalogue string // address; empty: the one in force
	JSON      bool
}

// trustView is what `config trust add` and `remove` give in JSON.
type trustView struct {
	Catalogue string `json:"manifest"`
	ID        string `json:"id"`
	Key       string `json:"key"`
	Changed   bool   `json:"changed"` // false: it was so already
}

func newTrustAdd(app *App, run func(context.Context, *App, trustOptions) error) *cobra.Command {
	o := trustOptions{}
	cmd := &cobra.Command{
		Use:   "add KEY [--catalogue ADDRESS]",
		Short: "Trust a public key for a catalogue",
		Long: `Trust a minisign public key for a catalogue, from now on. KEY is a .pub file or the
line in it that starts with RW. Compare its id with what its publisher says: a
key that lies beside a manifest proves nothing. A catalogue that names keys of
its own is believed by them, no longer by the built-in ones.`,
		Example: `  smolvm config trust add publisher.pub
  smolvm config trust add RWQ... --catalogue https://example.org/images/`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Key = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	trustFlags(app, cmd, &o)
	return cmd
}

func newTrustRemove(app *App, run func(context.Context, *App, trustOptions) error) *cobra.Command {
	o := trustOptions{}
	cmd := &cobra.Command{
		Use:     "remove KEY [--catalogue ADDRESS]",
		Aliases: []string{"rm"},
		Short:   "Trust a key for a catalogue no longer",
		Long: `Trust a key for a catalogue no longer. KEY is its id, as 'smolvm config trust
list' shows it, its .pub file, or the line that starts with RW. Without a key of
its own a catalogue is believed by the built-in keys.`,
		Example: `  smolvm config trust remove 0123456789ABCDEF
  smolvm config trust remove publisher.pub --catalogue https://example.org/images/`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Key = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	trustFlags(app, cmd, &o)
	return cmd
}

func trustFlags(app *App, cmd *cobra.Command, o *trustOptions) {
	cmd.Flags().StringVar(&o.Catalogue, "catalogue", "", "`ADDRESS` of the catalogue's manifest (default the one in force)")
	jsonFlag(cmd, &o.JSON, "the key, and whether anything changed")
	if err := cmd.RegisterFlagCompletionFunc("catalogue", app.completeCatalogues); err != nil {
		panic(err) // the flag is three lines above
	}
}

func runTrustAdd(ctx context.Context, app *App, o trustOptions) error {
	c, address, err := app.trusting(o)
	if err != nil {
		return err
	}
	key, err := keyFrom(o.Key, nil)
	if err != nil {
		return err
	}
	before, _ := c.Catalogue(address)
	changed, err := c.AddKey(ctx, address, key)
	if err != nil {
		return err
	}
	if changed && len(before.Keys) == 0 && len(builtInKeys()) > 0 {
		app.notice("The built-in keys no longer count for this catalogue.")
	}
	return app.trusted(address, key, changed, o.JSON, "is trusted", "was trusted already")
}

func runTrustRemove(ctx context.Context, app *App, o trustOptions) error {
	c, address, err := app.trusting(o)
	if err != nil {
		return err
	}
	entry, _ := c.Catalogue(address)
	key, err := keyFrom(o.Key, keyViews(entry.Keys))
	if err != nil {
		return err
	}
	changed, err := c.RemoveKey(ctx, address, key)
	switch {
	case err != nil:
		return err
	case !changed:
		return notTrusted(key, address)
	}
	return app.trusted(address, key, changed, o.JSON, "is no longer trusted", "")
}

// notTrusted says why a key cannot be removed.
func notTrusted(key, address string) error {
	id, err := trust.KeyID(key)
	if err != nil {
		return err
	}
	for _, own := range keyViews(builtInKeys()) {
		if own.ID == id {
			return fault.New(fault.NotFound, "Name keys for the catalogue with smolvm config trust add: then the built-in ones do not count for it.",
				"key %s is built into this program, not configured for %s", id, fetch.Shown(address))
		}
	}
	return fault.New(fault.NotFound, "See smolvm config trust list.", "key %s is not configured for %s", id, fetch.Shown(address))
}

// trusting is the configuration, and the catalogue that is meant.
func (a *App) trusting(o trustOptions) (config.Config, string, error) {
	c, err := a.Config()
	if err != nil {
		return c, "", err
	}
	address := resolve.Address(c)
	if o.Catalogue != "" {
		address, err = config.ManifestAddress(o.Catalogue)
	}
	if err == nil && address == "" {
		err = refuse("Name it with --catalogue, --manifest or SMOLVM_MANIFEST.", "no catalogue is configured that a key could be for")
	}
	return c, address, err
}

// trusted reports a change, or that there was none.
func (a *App) trusted(address, key string, changed, json bool, did, already string) error {
	id, err := trust.KeyID(key)
	if err != nil {
		return err
	}
	if json {
		return ui.WriteData(a.Streams.Out, trustView{fetch.Shown(address), id, key, changed})
	}
	if !changed {
		did = already
	}
	a.Streams.Say("Key %s %s for %s.", id, did, fetch.Shown(address))
	return nil
}

// trustListOptions are what `config trust list` was asked for.
type trustListOptions struct{ JSON bool }

// trustedView is one line of `config trust list`, in JSON.
type trustedView struct {
	Catalogue string `json:"manifest"` // empty: every catalogue without keys of its own
	ID        string `json:"id"`
	Key       string `json:"key"`
	From      string `json:"from"` // config, built in, --trusted-key
	Threshold int    `json:"threshold"`
}

func newTrustList(app *App, run func(context.Context, *App, trustListOptions) error) *cobra.Command {
	o := trustListOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the keys that are trusted, and for what",
		Example: `  smolvm config trust list
  smolvm config trust list --json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	jsonFlag(cmd, &o.JSON, "an array of keys")
	return cmd
}

func runTrustList(_ context.Context, app *App, o trustListOptions) error {
	c, err := app.Config()
	if err != nil {
		return err
	}
	all := trustedKeys(c)
	switch {
	case o.JSON:
		return ui.WriteData(app.Streams.Out, all)
	case len(all) == 0:
		app.Streams.Say("No key is trusted. Add one: smolvm config trust add KEY")
		return nil
	}
	table := ui.NewTable("KEY ID", "FROM", "CATALOGUE")
	for _, k := range all {
		catalogue := k.Catalogue
		if catalogue == "" {
			catalogue = "all without keys of their own"
		}
		if k.From == fromFlag {
			catalogue = "all"
		}
		table.Add(k.ID, k.From, catalogue)
	}
	return app.table(table)
}

// Where a trusted key comes from.
const (
	fromConfig = "config"
	fromBuild  = "built in"
	fromFlag   = "--trusted-key"
)

func trustedKeys(c config.Config) []trustedView {
	all := []trustedView{}
	add := func(catalogue, from string, threshold int, keys []string) {
		for _, k := range keyViews(keys) {
			all = append(all, trustedView{catalogue, k.ID, k.Key, from, threshold})
		}
	}
	if root, err := resolve.BuiltIn(); err == nil {
		add("", fromBuild, root.Threshold, root.Keys)
	}
	for _, entry := range c.Catalogues {
		add(fetch.Shown(entry.Address), fromConfig, entry.Threshold, entry.Keys)
	}
	add("", fromFlag, 1, c.TrustedKeys)
	return all
}

// completeKeys offers the ids of configured keys.
func (a *App) completeKeys(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c, _ := a.Config() // no names are better than an error in the middle of a line
	var names []string
	for _, entry := range c.Catalogues {
		for _, k := range keyViews(entry.Keys) {
			if !slices.Contains(names, k.ID) {
				names = append(names, k.ID)
			}
		}
	}
	return names, cobra.ShellCompDirectiveDefault
}

// completeCatalogues offers the catalogues of the configuration.
func (a *App) completeCatalogues(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	c, _ := a.Config()
	var names []string
	for _, entry := range c.Catalogues {
		names = append(names, entry.Address)
	}
	return names, cobra.ShellCompDirectiveDefault
}
