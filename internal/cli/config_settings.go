package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
)

// settingView is one setting in JSON.
type settingView struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`  // a text, or of a list its entries
	Origin string `json:"origin"` // a variable, a file's path, or default
}

// settingChange is what `config set` and `unset` give in JSON.
type settingChange struct {
	Key     string `json:"key"`
	File    string `json:"file"`
	Changed bool   `json:"changed"` // false: it was so already
}

// configListOptions are what `config list` was asked for.
type configListOptions struct{ Origin, JSON bool }

func newConfigList(app *App, run func(context.Context, *App, configListOptions) error) *cobra.Command {
	o := configListOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the settings and their values",
		Long: `List the settings and the values that hold in this directory. A flag overrules a
SMOLVM_ variable, that the directory's .smolvm.toml (once it is trusted), that
your own config.toml. Where nothing is set the value is empty or the default.`,
		Example: `  smolvm config list
  smolvm config list --show-origin`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().BoolVar(&o.Origin, "show-origin", false, "also say where each value comes from")
	jsonFlag(cmd, &o.JSON, "an array of settings")
	return cmd
}

func runConfigList(_ context.Context, app *App, o configListOptions) error {
	c, err := app.localConfig()
	if err != nil {
		return err
	}
	var views []settingView
	table := ui.NewTable("SETTING", "VALUE", "ORIGIN")
	var lines strings.Builder
	for _, key := range c.Keys() {
		v, origin, err := c.Get(key)
		if err != nil {
			return err
		}
		views = append(views, settingView{key, plainValue(key, v), origin})
		table.Add(key, shownValue(key, v), origin)
		fmt.Fprintf(&lines, "%s=%s\n", key, ui.Clean(shownValue(key, v)))
	}
	switch {
	case o.JSON:
		return ui.WriteData(app.Streams.Out, views)
	case o.Origin:
		return app.table(table)
	}
	_, err = fmt.Fprint(app.Streams.Out, lines.String())
	return err
}

// shownValue is a value without a password in it.
func shownValue(key string, v config.Value) string {
	if key == "manifest" {
		return fetch.Shown(v.Text)
	}
	return v.String()
}

// plainValue is a value for JSON.
func plainValue(key string, v config.Value) any {
	if v.List != nil {
		return v.List
	}
	return shownValue(key, v)
}

// configKeyOptions are what `config get`, `set` and `unset` were asked for.
type configKeyOptions struct {
	Key    string
	Values []string
	JSON   bool
}

func newConfigGet(app *App, run func(context.Context, *App, configKeyOptions) error) *cobra.Command {
	o := configKeyOptions{}
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Show the value of one setting",
		Long: `Show the value of one setting that holds in this directory: an empty line where
nothing is set, of a list one entry a line.`,
		Example: `  smolvm config get memory
  smolvm config get preset.claude-code.memory`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Key = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the setting")
	return cmd
}

func runConfigGet(_ context.Context, app *App, o configKeyOptions) error {
	key, err := app.settingKey(o.Key)
	if err != nil {
		return err
	}
	c, err := app.localConfig()
	if err != nil {
		return err
	}
	v, origin, err := c.Get(key)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, settingView{key, plainValue(key, v), origin})
	}
	lines := v.List
	if lines == nil {
		lines = []string{v.Text}
	}
	_, err = fmt.Fprintln(app.Streams.Out, strings.Join(lines, "\n"))
	return err
}

func newConfigSet(app *App, run func(context.Context, *App, configKeyOptions) error) *cobra.Command {
	o := configKeyOptions{}
	cmd := &cobra.Command{
		Use:   "set KEY VALUE...",
		Short: "Write a setting into your configuration",
		Long: `Write a setting into config.toml in the state folder; comments and everything else
in it stay. A list takes several values. A setting of one preset is called
preset.NAME.KEY and overrules the general one.

` + settingsHelp(),
		Example: `  smolvm config set memory 4G
  smolvm config set preset.codex.cpus 2
  smolvm config set env TZ NODE_ENV=test`,
		Args:              arguments(2, anyNumber),
		ValidArgsFunction: app.completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Key, o.Values = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the setting, and whether anything changed")
	return cmd
}

// settingsHelp lists the settings for a help text.
func settingsHelp() string {
	var out strings.Builder
	out.WriteString("The settings:\n")
	for _, s := range config.Settings() {
		key := s.Key
		if !s.Top {
			key = "preset.NAME." + key
		}
		fmt.Fprintf(&out, "  %s: %s\n", key, s.Help)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func runConfigSet(ctx context.Context, app *App, o configKeyOptions) error {
	key, err := app.settingKey(o.Key)
	if err != nil {
		return err
	}
	c, err := app.Config()
	if err != nil {
		return err
	}
	changed, err := c.Set(ctx, key, o.Values)
	if err != nil {
		return err
	}
	if err := app.changedSetting(settingChange{key, c.File, changed}, o.JSON, "is set in", "was so already in"); err != nil {
		return err
	}
	app.tellOverruled(key)
	return nil
}

func newConfigUnset(app *App, run func(context.Context, *App, configKeyOptions) error) *cobra.Command {
	o := configKeyOptions{}
	cmd := &cobra.Command{
		Use:   "unset KEY",
		Short: "Take a setting out of your configuration",
		Example: `  smolvm config unset memory
  smolvm config unset preset.claude-code.credentials`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Key = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the setting, and whether anything changed")
	return cmd
}

func runConfigUnset(ctx context.Context, app *App, o configKeyOptions) error {
	key, err := app.settingKey(o.Key)
	if err != nil {
		return err
	}
	c, err := app.Config()
	if err != nil {
		return err
	}
	changed, err := c.Unset(ctx, key)
	if err != nil {
		return err
	}
	return app.changedSetting(settingChange{key, c.File, changed}, o.JSON, "is no longer set in", "was not set in")
}

func (a *App) changedSetting(change settingChange, json bool, did, already string) error {
	if json {
		return ui.WriteData(a.Streams.Out, change)
	}
	if !change.Changed {
		did = already
	}
	a.Streams.Say("%s %s %s.", change.Key, did, change.File)
	return nil
}

// tellOverruled says when a setting of the user's file does not hold here.
func (a *App) tellOverruled(key string) {
	c, err := a.localConfig()
	if err != nil {
		return // it was written all the same
	}
	if _, origin, err := c.Get(key); err == nil && origin != c.File && origin != config.FromDefault {
		a.Streams.Say("Here it is overruled by %s.", origin)
	}
}

// settingKey is a setting's key with the preset's own name in it.
func (a *App) settingKey(text string) (string, error) {
	s, word, err := config.FindSetting(text)
	if err != nil || word == "" {
		return text, err
	}
	names, err := a.presetNames([]string{word})
	if err != nil {
		return "", err
	}
	return config.PresetKey(names[0], s.Key), nil
}

// completeSettings offers the keys, for a first argument.
func (a *App) completeSettings(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var presets []preset.Preset
	if all, err := a.AllPresets(); err == nil {
		presets = all
	}
	var keys []string
	for _, s := range config.Settings() {
		if s.Top {
			keys = append(keys, s.Key)
		}
		for _, p := range presets {
			if s.Preset {
				keys = append(keys, config.PresetKey(p.Name, s.Key))
			}
		}
	}
	return keys, cobra.ShellCompDirectiveNoFileComp
}
