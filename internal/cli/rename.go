package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/ui"
)

// renameOptions are what `rename` was asked for.
type renameOptions struct {
	From, To string
	JSON     bool
}

// renameView is the data of `rename --json`.
type renameView struct {
	Name string `json:"name"` // from now on
	Was  string `json:"was"`
}

func newRename(app *App, run func(context.Context, *App, renameOptions) error) *cobra.Command {
	o := renameOptions{}
	cmd := &cobra.Command{
		Use:   "rename NAME NEW-NAME",
		Short: "Give a sandbox another name",
		Long: `Give a sandbox another name, whether it runs or not. Its files, keys and the
directory it belongs to stay; programs that run in it and whoever is attached
notice nothing. Its own host name follows at the next start.`,
		Example: `  smolvm rename claude-code parser
  smolvm rename claude-code parser --json`,
		Args:              arguments(2, 2),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.From, o.To = args[0], args[1]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "both names")
	return cmd
}

func runRename(ctx context.Context, app *App, o renameOptions) error {
	boxes, _, err := app.one(o.From)
	if err != nil {
		return err
	}
	if err := record.ValidateName(o.To); err != nil {
		return err
	}
	if o.From == o.To {
		return refuse("Give another name.", "sandbox %q has that name already", o.From)
	}
	if err := boxes.Rename(ctx, o.From, o.To); err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, renameView{Name: o.To, Was: o.From})
	}
	app.Streams.Say("renamed %s to %s", o.From, o.To)
	return nil
}
