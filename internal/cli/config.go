package cli

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
)

func newConfig(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "config",
		Short: "Show and change the configuration, and say what is trusted",
		Example: `  smolvm config list --show-origin
  smolvm config set memory 4G
  smolvm config trust list`,
	})
	cmd.AddCommand(newConfigList(app, runConfigList), newConfigGet(app, runConfigGet), newConfigSet(app, runConfigSet),
		newConfigUnset(app, runConfigUnset), newConfigEdit(app, runConfigEdit), newConfigShow(app, runConfigShow), newConfigTrust(app))
	return cmd
}

// configShowOptions are what `config show` was asked for.
type configShowOptions struct{ JSON bool }

// configView is `config show --json`. No address in it has a password.
type configView struct {
	Home         string           `json:"home"`
	File         string           `json:"file"`
	FileThere    bool             `json:"file_there"`
	Manifest     string           `json:"manifest"`      // empty: none is named
	ManifestFrom string           `json:"manifest_from"` // who named it
	Backend      string           `json:"backend"`       // empty: chosen for this computer
	BuildCache   string           `json:"build_cache"`
	BuiltInKeys  []keyView        `json:"built_in_keys"`
	TrustedKeys  []keyView        `json:"trusted_keys"` // of --trusted-key
	Catalogues   []configuredView `json:"catalogues"`   // of the file
}

// configuredView is what the file says about one catalogue.
type configuredView struct {
	Address   string    `json:"manifest"`
	Keys      []keyView `json:"keys"` // none: the built-in ones count
	Threshold int       `json:"threshold"`
	Mirrors   []string  `json:"mirrors"`
}

// keyView is a public key.
type keyView struct {
	ID  string `json:"id"`
	Key string `json:"key"`
}

func newConfigShow(app *App, run func(context.Context, *App, configShowOptions) error) *cobra.Command {
	o := configShowOptions{}
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show what is in force, and where it comes from",
		Long: `Show what is in force here and where it comes from: flags, SMOLVM_ variables, and
config.toml in the state folder, which looks like this:

  manifest = "https://example.org/images/manifest.json"

  [[catalogue]]
  address = "https://example.org/images/manifest.json"
  keys = ["RW..."]     # whose signatures count for it
  threshold = 1        # how many of them
  mirrors = ["https://mirror.example/images/"]`,
		Example: `  smolvm config show
  smolvm config show --json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	jsonFlag(cmd, &o.JSON, "the configuration")
	return cmd
}

func runConfigShow(_ context.Context, app *App, o configShowOptions) error {
	c, err := app.Config()
	if err != nil {
		return err
	}
	view := app.configOf(c)
	if o.JSON {
		return ui.WriteData(app.Streams.Out, view)
	}
	_, err = fmt.Fprint(app.Streams.Out, view.text(app.sheet()))
	return err
}

func (a *App) configOf(c config.Config) configView {
	view := configView{
		Home: c.Home, File: c.File, Manifest: fetch.Shown(resolve.Address(c)), ManifestFrom: a.manifestFrom(c),
		Backend: c.Backend, BuildCache: c.BuildCache,
		BuiltInKeys: keyViews(builtInKeys()), TrustedKeys: keyViews(c.TrustedKeys), Catalogues: []configuredView{},
	}
	if _, err := os.Lstat(c.File); err == nil {
		view.FileThere = true
	}
	for _, entry := range c.Catalogues {
		view.Catalogues = append(view.Catalogues, configuredOf(entry))
	}
	return view
}

// manifestFrom says who named the manifest.
func (a *App) manifestFrom(c config.Config) string {
	switch {
	case a.global.Manifest != "":
		return "--manifest"
	case c.Manifest != "":
		return c.ManifestFrom
	case resolve.Address(c) != "":
		return "built in"
	}
	return ""
}

// builtInKeys are the keys that this program was built with.
func builtInKeys() []string {
	root, err := resolve.BuiltIn()
	if err != nil {
		return nil // using them will tell
	}
	return root.Keys
}

func configuredOf(entry config.Catalogue) configuredView {
	view := configuredView{
		Address: fetch.Shown(entry.Address), Keys: keyViews(entry.Keys), Threshold: entry.Threshold, Mirrors: []string{},
	}
	for _, mirror := range entry.Mirrors {
		view.Mirrors = append(view.Mirrors, fetch.Shown(mirror))
	}
	return view
}

func keyViews(keys []string) []keyView {
	views := make([]keyView, 0, len(keys))
	for _, key := range keys {
		id, err := trust.KeyID(key)
		if err != nil {
			id = "not a key" // a build's mistake, which using it will tell
		}
		views = append(views, keyView{id, keyLine(key)})
	}
	return views
}

// keyLine is a public key without its comment.
func keyLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func (v configView) text(out *sheet) string {
	out.width = 13
	line := func(key, value, otherwise string) { out.fact(key, cmp.Or(value, otherwise)) }
	from := ""
	if v.Manifest != "" {
		from = fmt.Sprintf("%s (%s)", v.Manifest, v.ManifestFrom)
	}
	file := v.File
	if !v.FileThere {
		file += " (not there)"
	}
	line("state folder", v.Home, "")
	line("config file", file, "")
	line("manifest", from, "none: name one with --manifest or SMOLVM_MANIFEST")
	line("backend", v.Backend, "chosen for this computer")
	line("build cache", v.BuildCache, "build in the state folder")
	line("built-in keys", ids(v.BuiltInKeys), "none")
	if len(v.TrustedKeys) > 0 {
		line("--trusted-key", ids(v.TrustedKeys), "")
	}
	for _, c := range v.Catalogues {
		fmt.Fprintf(out, "\ncatalogue %s\n", ui.Clean(c.Address))
		keys := "the built-in ones"
		if len(c.Keys) > 0 {
			keys = fmt.Sprintf("%s (%d of %d have to sign)", ids(c.Keys), c.Threshold, len(c.Keys))
		}
		out.facts("  ", [2]string{"keys", keys}, [2]string{"mirrors", strings.Join(c.Mirrors, ", ")})
	}
	return out.String()
}

func ids(keys []keyView) string {
	var names []string
	for _, key := range keys {
		names = append(names, key.ID)
	}
	return strings.Join(names, ", ")
}

// keyFrom gives the public key that a word names: a file, the key itself, or
// where known has any, the id of one of them.
func keyFrom(word string, known []keyView) (string, error) {
	at := slices.IndexFunc(known, func(k keyView) bool { return strings.EqualFold(k.ID, word) || k.Key == word })
	if at >= 0 {
		return known[at].Key, nil
	}
	if _, err := trust.KeyID(word); err == nil {
		return keyLine(word), nil
	}
	if _, err := os.Stat(word); err != nil {
		hint := "Give the .pub file, or its line that starts with RW."
		if len(known) > 0 {
			hint = "Give its id, as smolvm config trust list shows it, its .pub file, or its line that starts with RW."
		}
		return "", refuse(hint, "%q is neither a public key nor a file that can be read: %w", ui.Clean(word), reasonOf(err))
	}
	key, err := readKeyFile(word, "the key")
	return keyLine(key), err
}

// reasonOf is what a system call said, without the path.
func reasonOf(err error) error {
	if path, ok := err.(*fs.PathError); ok { //nolint:errorlint // os.Stat wraps nothing
		return path.Err
	}
	return err
}
