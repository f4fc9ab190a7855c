package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
)

// deleteOptions are what `delete` was asked for.
type deleteOptions struct {
	Names []string
	All   bool
	Yes   bool
	JSON  bool
}

func newDelete(app *App, run func(context.Context, *App, deleteOptions) error) *cobra.Command {
	o := deleteOptions{}
	cmd := &cobra.Command{
		Use:     "delete NAME... | delete --all [--yes]",
		Aliases: []string{"rm"},
		Short:   "Delete sandboxes with their disks",
		Long: `Delete sandboxes with everything in them; those that run are stopped first.
Images stay in the cache.

On a terminal, --all and sandboxes that run are asked about; --yes answers.
Without a terminal nothing is asked: named sandboxes are deleted, and --all
needs --yes.`,
		Example: `  smolvm delete claude-code
  smolvm delete --all --yes`,
		ValidArgsFunction: app.completeAll(anySandbox),
		Args: func(cmd *cobra.Command, args []string) error {
			if o.All == (len(args) > 0) {
				return refuse("Usage: "+cmd.UseLine(), "give names or --all, one of both")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.All, "all", false, "every sandbox")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask")
	jsonFlag(cmd, &o.JSON, "the names")
	return cmd
}

func runDelete(ctx context.Context, app *App, o deleteOptions) error {
	boxes, err := app.allThere(o.Names)
	if err != nil {
		return err
	}
	all, err := boxes.List()
	if err != nil {
		return err
	}
	if o.All {
		for _, s := range all {
			o.Names = append(o.Names, s.Name)
		}
	}
	if yes, err := app.mayDelete(ctx, o, all); !yes {
		return err
	}
	var errs []error
	for _, name := range o.Names {
		errs = append(errs, boxes.Delete(ctx, name))
	}
	return app.namesDone("deleted", o.Names, errs, o.JSON)
}

// mayDelete asks where that is needed and possible.
func (a *App) mayDelete(ctx context.Context, o deleteOptions, all []sandbox.Status) (bool, error) {
	live := liveAmong(all, o.Names)
	switch {
	case o.Yes || len(o.Names) == 0 || (!o.All && len(live) == 0):
		return true, nil
	case a.Streams.Interactive():
		question := fmt.Sprintf("Delete %s?", strings.Join(o.Names, ", "))
		if len(live) > 0 {
			question = fmt.Sprintf("Delete %s (running: %s)?", strings.Join(o.Names, ", "), strings.Join(live, ", "))
		}
		return a.Streams.Confirm(ctx, question)
	case o.All:
		return false, refuse("Add --yes.", "delete --all asks first, and there is no terminal to ask on")
	}
	return true, nil
}

// liveAmong are the named sandboxes that are not stopped.
func liveAmong(all []sandbox.Status, names []string) []string {
	var live []string
	for _, s := range all {
		for _, name := range names {
			if s.Name == name && (s.State == sandbox.Running || s.State == sandbox.Starting) {
				live = append(live, name)
			}
		}
	}
	return live
}
