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

// defaultGrace is how long a sandbox may take to stop in order: one that can takes
// a tenth of a second on an idle host, and several seconds on one that is not.
const defaultGrace = 30 * time.Second

// stopOptions are what `stop` was asked for.
type stopOptions struct {
	Names []string
	All   bool // every one that runs
	Grace time.Duration
	JSON  bool
}

func newStop(app *App, run func(context.Context, *App, stopOptions) error) *cobra.Command {
	o := stopOptions{}
	cmd := &cobra.Command{
		Use:   "stop NAME... | stop --all",
		Short: "Stop sandboxes; their disks stay",
		Long: `Stop sandboxes in order: programs are ended, file systems unmounted. A sandbox
that takes longer than the grace period is switched off. Stopping a sandbox that
is not running does nothing, and says so. Its files stay for the next start.
--all stops every sandbox that runs.`,
		Example: `  smolvm stop claude-code
  smolvm stop --timeout 1m claude-code codex
  smolvm stop --all`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.All == (len(args) > 0) {
				return refuse("Usage: "+cmd.UseLine(), "give names or --all, one of both")
			}
			return nil
		},
		ValidArgsFunction: app.completeAll(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.All, "all", false, "every sandbox that runs")
	cmd.Flags().DurationVarP(&o.Grace, "timeout", "t", defaultGrace, "how long a sandbox may take before it is switched off")
	jsonFlag(cmd, &o.JSON, "the names of those stopped, and of those that were not running")
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
	all, err := boxes.List()
	if err != nil {
		return err
	}
	if o.All {
		o.Names = liveNames(all)
	}
	live := liveAmong(all, o.Names)
	var errs []error
	for _, name := range o.Names {
		if s, err := boxes.Get(name); err == nil && slices.Contains(live, name) {
			app.copyBack(ctx, boxes, s)
		}
		errs = append(errs, boxes.Stop(ctx, name, o.Grace))
	}
	return app.stopped(o, live, errs)
}

// liveNames are all sandboxes that are not stopped.
func liveNames(all []sandbox.Status) []string {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return liveAmong(all, names)
}

// stopView is the data of `stop --json`.
type stopView struct {
	Stopped    []string `json:"stopped"`
	NotRunning []string `json:"not_running"` // nothing was done
}

// stopped reports what stop did to each sandbox, and joins what failed.
func (a *App) stopped(o stopOptions, live []string, errs []error) error {
	view := stopView{Stopped: []string{}, NotRunning: []string{}}
	for i, name := range o.Names {
		switch {
		case errs[i] != nil:
		case slices.Contains(live, name):
			view.Stopped = append(view.Stopped, name)
		default:
			view.NotRunning = append(view.NotRunning, name)
		}
	}
	err := errors.Join(errs...)
	if o.JSON && err == nil {
		return ui.WriteData(a.Streams.Out, view)
	}
	for _, name := range view.Stopped {
		a.Streams.Say("stopped %s", name)
	}
	for _, name := range view.NotRunning {
		a.Streams.Say("%s was not running", name)
	}
	if o.All && len(o.Names) == 0 {
		a.Streams.Say("No sandbox is running.")
	}
	return err
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
