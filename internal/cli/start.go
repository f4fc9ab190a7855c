package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

func newStart(app *App, run func(context.Context, *App, startOptions) error) *cobra.Command {
	o := startOptions{}
	cmd := &cobra.Command{
		Use:   "start [FLAGS] NAME [-- AGENT ARGS...]",
		Short: "Start a sandbox that is stopped",
		Long: `Start a sandbox that is stopped, with the files it had. One that runs already is
left as it is. Attaching and exit status are those of 'smolvm claude start'.`,
		Example: `  smolvm start claude-code
  smolvm start --no-attach claude-code
  smolvm start claude-code -- --continue`,
		Args:              nameThenArgs,
		ValidArgsFunction: app.completeFirst(sandbox.Stopped),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Args = args[0], afterDash(cmd, args)
			return run(cmd.Context(), app, o)
		},
	}
	startFlags(cmd, &o)
	return cmd
}

func runStart(ctx context.Context, app *App, o startOptions) error {
	attach, err := app.attaches(o)
	if err != nil {
		return err
	}
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	return app.startAgain(ctx, boxes, s, attach, o)
}

// startAgain starts a sandbox that there is, unless it runs already.
func (a *App) startAgain(ctx context.Context, boxes sandboxes, s sandbox.Status, attach bool, o startOptions) error {
	if s.State != sandbox.Running {
		if err := a.Able(machine{arch: s.Arch, vmm: s.VMM}); err != nil {
			return err
		}
		if err := a.Intact(ctx, s.Image); err != nil {
			return err
		}
		if _, err := boxes.Start(ctx, s.Name, sandbox.StartOptions{Timeout: o.Timeout}); err != nil {
			return err
		}
	}
	return a.started(ctx, boxes, s.Name, attach, o)
}

// started ends a start: with the agent in front of the user, or with the
// sandbox's name as the result.
func (a *App) started(ctx context.Context, boxes sandboxes, name string, attach bool, o startOptions) error {
	s, err := boxes.Get(name)
	if err != nil {
		return err
	}
	if attach {
		if err := a.awaitServices(ctx, boxes, s); err != nil {
			return err
		}
		a.Progress().Close()
		return a.finish(ctx, boxes, name, agent(s, o.Args), o.JSON)
	}
	if o.JSON {
		return ui.WriteData(a.Streams.Out, a.viewOf(s))
	}
	a.Streams.Say("%s is running. Run its agent with: smolvm attach %s", name, name)
	_, err = fmt.Fprintln(a.Streams.Out, name)
	return err
}
