package cli

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/login"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// giveOptions say what of this computer the agent gets.
type giveOptions struct {
	Env           []string
	EnvFiles      []string
	Credentials   []string // NAME=SOURCE
	NoCredentials bool
	Kept          []string // of the sandbox, see env
}

func (o giveOptions) any() bool {
	return len(o.Env)+len(o.EnvFiles)+len(o.Credentials) > 0 || o.NoCredentials
}

// giveFlags adds what says what the agent gets.
func giveFlags(cmd *cobra.Command, o *giveOptions) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.Env, "env", "e", nil, "`NAME[=VALUE]` for the agent, until the sandbox stops; without a value yours; may be repeated")
	flags.StringArrayVar(&o.EnvFiles, "env-file", nil, "`FILE` with NAME or NAME=VALUE lines, as for -e; may be repeated")
	flags.StringArrayVar(&o.Credentials, "credential", nil,
		"`NAME=SOURCE` keeps a credential here, and gives the agent a placeholder; SOURCE is env:VARIABLE, file:PATH or keychain:ITEM; may be repeated")
	flags.BoolVar(&o.NoCredentials, "no-credentials", false, "give the agent none of your credentials, and do not ask")
}

// gift is what an agent gets, and how that is shown.
type gift struct {
	credentials wire.Credentials
	names       []string        // never values
	offered     []string        // what the user has not been asked about
	listed      []string        // variables of the user's list
	secrets     []escrow.Secret // what is kept from the sandbox
	sources     []string        // of those, where --credential named one
}

// gift decides what the agent of a preset gets. Nobody is asked here.
func (a *App) gift(ctx context.Context, c config.Config, p preset.Preset, o giveOptions, st standing) (gift, error) {
	named, values, err := a.sources(ctx, c, p, o, st)
	if err != nil {
		return gift{}, err
	}
	g := gift{credentials: wire.Credentials{Env: map[string]string{}, Git: a.gitIdentity(ctx, c)}}
	for _, l := range p.Logins {
		g.credentials.Withdrawn = append(g.credentials.Withdrawn, l.File)
	}
	configured, err := c.Variables(a.known(c, c.EnvEntries(p.Name)), nil)
	if err != nil {
		return g, err
	}
	g.add(configured)
	listed, _ := c.Lookup("credentials", p.Name)
	if !o.NoCredentials && c.Has("credentials", p.Name) {
		err = a.addListed(c, &g, listed.List)
	} else if !o.NoCredentials {
		g.offered = a.offered(c, p)
	}
	if err != nil {
		return g, err
	}
	kept, err := c.Variables(a.known(c, o.Kept), nil)
	if err != nil {
		return g, err
	}
	g.add(kept)
	flags, err := c.Variables(o.Env, o.EnvFiles)
	if err != nil {
		return g, err
	}
	g.add(flags)
	g.listed = slices.DeleteFunc(g.listed, func(name string) bool { _, raw := flags[name]; return raw })
	if err := a.keep(c, &g, p, named, values, st); err != nil {
		return g, err
	}
	if n := g.credentials.Size(); n > wire.MaxCredentials {
		return g, fault.New(fault.Usage, "Give fewer or shorter variables and login files.",
			"give the agent its variables and logins: they take %d bytes, at most %d are possible", n, wire.MaxCredentials)
	}
	return g, nil
}

// add adds variables, over those that are there.
func (g *gift) add(env map[string]string) {
	maps.Copy(g.credentials.Env, env)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !slices.Contains(g.names, name) {
			g.names = append(g.names, name)
		}
	}
}

// known drops variables of the configuration that are not set here, and says so.
func (a *App) known(c config.Config, entries []string) []string {
	return slices.DeleteFunc(entries, func(entry string) bool {
		missing := !strings.Contains(entry, "=") && c.Getenv(entry) == ""
		if missing {
			a.notice("%s is not set here: the agent does not get it.", entry)
		}
		return missing
	})
}

// addListed adds the credentials of the user's list.
func (a *App) addListed(c config.Config, g *gift, list []string) error {
	for _, entry := range list {
		path, isFile := strings.CutPrefix(entry, "~/")
		if !isFile {
			for _, name := range a.known(c, []string{entry}) {
				g.add(map[string]string{name: c.Getenv(name)})
				g.listed = append(g.listed, name)
			}
			continue
		}
		content, err := a.readLogin(path)
		if errors.Is(err, fs.ErrNotExist) {
			a.notice("%s is not there: the agent does not get it.", entry)
			continue
		}
		if err != nil {
			return fault.New(fault.Usage, "Take it from the list with smolvm config set, or start with --no-credentials.", "give the agent %s: %w", entry, err)
		}
		g.credentials.Logins = append(g.credentials.Logins, wire.LoginFile{Path: path, Content: content})
		g.names = append(g.names, entry)
	}
	return nil
}

// offered is what of this computer the preset's agent could use.
func (a *App) offered(c config.Config, p preset.Preset) []string {
	var all []string
	for _, name := range p.Environment {
		if c.Getenv(name) != "" {
			all = append(all, name)
		}
	}
	for _, l := range p.Logins {
		if _, err := a.readLogin(l.File); err == nil {
			all = append(all, "~/"+l.File)
		}
	}
	return all
}

// readLogin reads a login file of the user's.
func (a *App) readLogin(file string) ([]byte, error) { return login.Read(a.UserHome, file) }

// askFor asks once whether the agent gets what it could use, and remembers it.
// The configuration that it gives has the answer.
func (a *App) askFor(ctx context.Context, c config.Config, p preset.Preset, offered []string, st standing) (config.Config, error) {
	if len(offered) == 0 || !a.Streams.Interactive() {
		return c, nil
	}
	a.Streams.Say("%s in its sandbox could use these of yours:", ui.Clean(p.Agent.Name))
	for _, entry := range offered {
		kind := "variable"
		switch {
		case strings.HasPrefix(entry, "~/"):
			kind = "login"
		case keeps(c, p, entry, st):
			kind = "variable, kept here: the sandbox gets a placeholder"
		}
		a.Streams.Say("  %s (%s)", entry, kind)
	}
	a.Streams.Say("The agent and all that it runs can read what is not kept here. It stays in memory and is written to no disk.")
	yes, err := a.Streams.Confirm(ctx, "Give them to "+p.Name+" from now on?")
	if err != nil {
		return c, err
	}
	agreed := []string{}
	if yes {
		agreed = offered
	}
	key := config.PresetKey(p.Name, "credentials")
	if _, err := c.Set(ctx, key, agreed); err != nil {
		return c, err
	}
	a.Streams.Say("Remembered as %s; smolvm config unset %s to be asked again.", key, key)
	return c.With(key, config.Value{List: agreed}), nil
}

// giftFor is gift, with the question where there is one.
func (a *App) giftFor(ctx context.Context, c config.Config, p preset.Preset, o giveOptions, st standing) (gift, error) {
	g, err := a.gift(ctx, c, p, o, st)
	if err != nil || len(g.offered) == 0 {
		return g, err
	}
	c, err = a.askFor(ctx, c, p, g.offered, st)
	if err != nil {
		return g, err
	}
	return a.gift(ctx, c, p, o, st)
}

// tell says what the agent gets.
func (g gift) tell(a *App) {
	if len(g.names) > 0 {
		a.notice("The agent gets of yours: %s.", strings.Join(g.names, ", "))
	}
	if len(g.secrets) > 0 {
		a.notice("Kept from the sandbox, which gets placeholders: %s.", keptText(g.kept()))
	}
}

// presetNamed is the preset of a sandbox; one that is no longer there has only
// its name.
func (a *App) presetNamed(name string) (preset.Preset, error) {
	all, err := a.AllPresets()
	if err != nil {
		return preset.Preset{}, err
	}
	if p, ok := preset.Find(all, name); ok {
		return p, nil
	}
	return preset.Preset{Name: name}, nil
}
