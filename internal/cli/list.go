package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// listOptions are what `list` was asked for.
type listOptions struct{ JSON, Quiet bool }

func newList(app *App, run func(context.Context, *App, listOptions) error) *cobra.Command {
	o := listOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the sandboxes",
		Example: `  smolvm list
  smolvm list --quiet
  smolvm list --json`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "names only, one a line")
	jsonFlag(cmd, &o.JSON, "an array of sandboxes")
	return cmd
}

func runList(_ context.Context, app *App, o listOptions) error {
	boxes, err := app.Sandboxes()
	if err != nil {
		return err
	}
	all, err := boxes.List()
	if err != nil {
		return err
	}
	switch {
	case o.JSON:
		views := make([]sandboxView, 0, len(all))
		for _, s := range all {
			views = append(views, viewOf(s))
		}
		return ui.WriteData(app.Streams.Out, views)
	case o.Quiet:
		return writeNames(app.Streams.Out, all)
	case len(all) == 0:
		app.Streams.Say("There are no sandboxes. Make one: smolvm claude start")
		return nil
	}
	return app.sandboxTable(all).Write(app.Streams.Out)
}

func (a *App) sandboxTable(all []sandbox.Status) *ui.Table {
	table := ui.NewTable("NAME", "PRESET", "STATE", "AGENT", "CPUS", "MEMORY", "AGE")
	for _, s := range all {
		table.Add(s.Name, s.Preset, s.State, s.Agent.Version, strconv.Itoa(s.CPUs),
			ui.Bytes(s.MemoryMiB<<20), ui.Age(a.Now(), s.Created))
	}
	return table
}
