package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// maxVariables bounds what a sandbox's kept variables take, in bytes: they share a
// message with the login files.
const maxVariables = 16 << 10

// envOptions are what `env` was asked for.
type envOptions struct {
	Name    string
	Entries []string // set: NAME[=VALUE]; unset: NAME
	JSON    bool
}

// variableView is a variable of a sandbox in JSON.
type variableView struct {
	Name  string  `json:"name"`
	Value *string `json:"value"` // null: what it is on this computer at each start
}

func newEnv(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "env",
		Short: "Keep variables for a sandbox's agent",
		Example: `  smolvm env set claude-code MODE=test GITHUB_TOKEN
  smolvm env list claude-code`,
	})
	cmd.AddCommand(newEnvSet(app, runEnvSet), newEnvUnset(app, runEnvUnset), newEnvList(app, runEnvList))
	return cmd
}

func newEnvSet(app *App, run func(context.Context, *App, envOptions) error) *cobra.Command {
	return envCommand(app, run, &cobra.Command{
		Use:   "set NAME VARIABLE[=VALUE]...",
		Short: "Set variables for a sandbox's agent and services",
		Long: `Set variables for the agent and the services of a sandbox, from each start on, and
at once for what begins in one that runs. They are stronger than those of the
settings, and weaker than -e of a start.

VARIABLE=VALUE is kept in the sandbox's folder, in a file of its own that only you
can read. VARIABLE alone keeps the name, and its value is read from your environment
at each start: that is the way for secrets. Variables that hold the credentials of
the sandbox's agent are refused with a value, and count from the next start on.`,
		Example: `  smolvm env set claude-code MODE=test
  smolvm env set claude-code GITHUB_TOKEN`,
		Args: arguments(2, anyNumber),
	})
}

func newEnvUnset(app *App, run func(context.Context, *App, envOptions) error) *cobra.Command {
	return envCommand(app, run, &cobra.Command{
		Use:   "unset NAME VARIABLE...",
		Short: "Take variables of a sandbox's agent back",
		Long: `Forget variables that 'env set' keeps. What runs goes on with them; what begins in
the sandbox from now on does not get them.`,
		Example: `  smolvm env unset claude-code MODE`,
		Args:    arguments(2, anyNumber),
	})
}

func newEnvList(app *App, run func(context.Context, *App, envOptions) error) *cobra.Command {
	return envCommand(app, run, &cobra.Command{
		Use:     "list NAME",
		Aliases: []string{"ls"},
		Short:   "List the variables that are kept for a sandbox's agent",
		Long: `List the variables that 'env set' keeps for a sandbox. One without a value has, at
each start, that of your environment.`,
		Example: `  smolvm env list claude-code
  smolvm env list claude-code --json`,
		Args: arguments(1, 1),
	})
}

// envCommand completes a command about the variables of one sandbox.
func envCommand(app *App, run func(context.Context, *App, envOptions) error, cmd *cobra.Command) *cobra.Command {
	o := envOptions{}
	cmd.ValidArgsFunction = app.completeFirst(anySandbox)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name, o.Entries = args[0], args[1:]
		return run(cmd.Context(), app, o)
	}
	jsonFlag(cmd, &o.JSON, "an array of the variables that are kept now")
	return cmd
}

func runEnvSet(ctx context.Context, app *App, o envOptions) error {
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	c, err := app.Config()
	if err != nil {
		return err
	}
	values, err := c.Variables(o.Entries, nil)
	if err != nil {
		return err
	}
	p, err := app.presetNamed(s.Preset)
	if err != nil {
		return err
	}
	if err := noCredentials(p, o.Entries); err != nil {
		return err
	}
	kept, err := boxes.Environment(o.Name)
	if err != nil {
		return err
	}
	if n := len(strings.Join(append(kept, o.Entries...), "\n")); n > maxVariables {
		return refuse("Keep fewer or shorter ones.", "the variables of sandbox %q would take %d bytes, at most %d are possible", o.Name, n, maxVariables)
	}
	maps.DeleteFunc(values, func(name string, _ string) bool { return slices.Contains(p.Environment, name) })
	return app.changeEnv(ctx, boxes, o, lastEntries(o.Entries), nil, values)
}

// noCredentials refuses the value of a credential, which no disk shall have.
func noCredentials(p preset.Preset, entries []string) error {
	for _, entry := range entries {
		name, _, given := strings.Cut(entry, "=")
		if given && slices.Contains(p.Environment, name) {
			return refuse(fmt.Sprintf("Name it alone, and its value is read from your environment at each start; or give it once with: smolvm start -e %s.", name),
				"%s is a credential, which is not kept on a disk", name)
		}
	}
	return nil
}

// lastEntries keeps the last of several entries of a name.
func lastEntries(entries []string) []string {
	by := map[string]string{}
	for _, entry := range entries {
		by[sandbox.EntryName(entry)] = entry
	}
	return slices.Sorted(maps.Values(by))
}

func entryNames(entries []string) []string {
	var names []string
	for _, entry := range entries {
		names = append(names, sandbox.EntryName(entry))
	}
	return names
}

func runEnvUnset(ctx context.Context, app *App, o envOptions) error {
	boxes, _, err := app.one(o.Name)
	if err != nil {
		return err
	}
	kept, err := boxes.Environment(o.Name)
	if err != nil {
		return err
	}
	names := entryNames(kept)
	for _, name := range o.Entries {
		if !slices.Contains(names, name) {
			return refuse(nearHint(name, names, "See smolvm env list "+o.Name+"."), "sandbox %q keeps no variable %q", o.Name, name)
		}
	}
	return app.changeEnv(ctx, boxes, o, nil, o.Entries, nil)
}

func (a *App) changeEnv(ctx context.Context, boxes sandboxes, o envOptions, set, unset []string, values map[string]string) error {
	kept, err := boxes.SetEnvironment(ctx, o.Name, set, unset, values)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(a.Streams.Out, variablesOf(kept))
	}
	if len(set) > 0 {
		a.Streams.Say("the agent of %s gets: %s", o.Name, strings.Join(entryNames(set), ", "))
	} else {
		a.Streams.Say("the agent of %s does not get any more: %s", o.Name, strings.Join(unset, ", "))
	}
	return nil
}

func runEnvList(_ context.Context, app *App, o envOptions) error {
	boxes, _, err := app.one(o.Name)
	if err != nil {
		return err
	}
	kept, err := boxes.Environment(o.Name)
	if err != nil {
		return err
	}
	views := variablesOf(kept)
	if o.JSON {
		return ui.WriteData(app.Streams.Out, views)
	}
	if len(views) == 0 {
		app.Streams.Say("No variables are kept for %s. Set one: smolvm env set %s NAME=VALUE", o.Name, o.Name)
		return nil
	}
	table := ui.NewTable("VARIABLE", "VALUE")
	for _, v := range views {
		value := "(yours, at each start)"
		if v.Value != nil {
			value = *v.Value
		}
		table.Add(v.Name, value)
	}
	return app.table(table)
}

func variablesOf(entries []string) []variableView {
	views := make([]variableView, 0, len(entries))
	for _, entry := range entries {
		name, value, given := strings.Cut(entry, "=")
		v := variableView{Name: name}
		if given {
			v.Value = &value
		}
		views = append(views, v)
	}
	return views
}
