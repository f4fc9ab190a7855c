package cli

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// defaultGrace is how long a sandbox may take to stop in order.
const defaultGrace = 10 * time.Second

// stopOptions are what `stop` was asked for.
type stopOptions struct {
	Names []string
	Grace time.Duration
	JSON  bool
}

func newStop(app *App, run func(context.Context, *App, stopOptions) error) *cobra.Command {
	o := stopOptions{}
	cmd := &cobra.Command{
		Use:   "stop NAME...",
		Short: "Stop sandboxes; their disks stay",
		Long: `Stop sandboxes in order: programs are ended, file systems unmounted. A sandbox
that takes longer than the grace period is switched off. Stopping a sandbox that
is not running does nothing. Its files stay for the next start.`,
		Example: `  smolvm stop claude-code
  smolvm stop --timeout 30s claude-code codex`,
		Args:              usage(cobra.MinimumNArgs(1)),
		ValidArgsFunction: app.completeAll(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().DurationVarP(&o.Grace, "timeout", "t", defaultGrace, "how long a sandbox may take before it is switched off")
	jsonFlag(cmd, &o.JSON, "the names")
	return cmd
}

func runStop(ctx context.Context, app *App, o stopOptions) error {
	if o.Grace < 0 {
		return refuse("Give a time such as 30s.", "--timeout %v is negative", o.Grace)
	}
	boxes, err := app.allThere(o.Names)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range o.Names {
		errs = append(errs, boxes.Stop(ctx, name, o.Grace))
	}
	return app.namesDone("stopped", o.Names, errs, o.JSON)
}

// distinct drops repeated names: what is named twice is dealt with once.
func distinct(names []string) []string {
	once := []string{}
	for _, name := range names {
		if !slices.Contains(once, name) {
			once = append(once, name)
		}
	}
	return once
}

// namesDone reports what was done to each named sandbox and joins what failed.
func (a *App) namesDone(verb string, names []string, errs []error, json bool) error {
	done := []string{}
	for i, name := range names {
		if errs[i] == nil {
			done = append(done, name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		for _, name := range done {
			a.Streams.Say("%s %s", verb, name)
		}
		return err
	}
	if json {
		return ui.WriteData(a.Streams.Out, map[string][]string{verb: done})
	}
	for _, name := range done {
		a.Streams.Say("%s %s", verb, name)
	}
	return nil
}
