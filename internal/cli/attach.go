package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/wire"
)

// attachOptions are what `attach` was asked for.
type attachOptions struct {
	Name     string   // empty: this directory's, or the only one that runs
	Args     []string // for the agent
	Wish     wish
	JSON     bool
	SSHAgent bool
}

func newAttach(app *App, run func(context.Context, *App, attachOptions) error) *cobra.Command {
	o := attachOptions{}
	cmd := &cobra.Command{
		Use:   "attach [FLAGS] [NAME] [-- AGENT ARGS...]",
		Short: "Get the agent of a running sandbox in front of you",
		Long: `Get the agent of a running sandbox in front of you, and hand back its exit
status when it ends. Without NAME it is the sandbox of this directory, or the only
one that runs.

On a terminal the agent runs in a session, which goes on when you leave it: with
ctrl-p ctrl-q, or by closing the terminal. Attaching again gives it back with its
screen: a session that nobody watches, else one that ended since (with its last
screen and its status), else one that another terminal shows, which both then
share; where there is none, a new one. Arguments for the agent make a new one, too.
Terminals that share a session see it in the size of the smallest.

Without a terminal the agent is run anew, its three streams are three pipes, and it
ends with its client.`,
		Example: `  smolvm attach
  smolvm attach claude-code
  smolvm attach --session 2 claude-code
  smolvm attach --new claude-code
  smolvm attach --detach-keys ctrl-a,d claude-code
  smolvm attach claude-code -- -p "what changed today?"`,
		Args:              maybeNameThenArgs,
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Args = afterDash(cmd, args)
			if len(args) > len(o.Args) {
				o.Name = args[0]
			}
			o.Wish.read(cmd)
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVar(&o.Wish.Session, "session", "", "`NAME` of the session, with --new of the new one")
	cmd.Flags().BoolVar(&o.Wish.New, "new", false, "run the agent anew in a session of its own")
	o.Wish.keysFlag(cmd)
	jsonFlag(cmd, &o.JSON, "the exit status and both outputs, captured")
	sshAgentFlag(cmd, &o.SSHAgent)
	handBack(cmd)
	return cmd
}

func runAttach(ctx context.Context, app *App, o attachOptions) (err error) {
	if err := o.Wish.check(app, o.Args, o.JSON); err != nil {
		return err
	}
	socket, err := app.sshAgent(o.SSHAgent)
	if err != nil {
		return err
	}
	if o.Name == "" {
		if o.Name, err = app.theSandbox(); err != nil {
			return err
		}
	}
	boxes, err := app.runningSandbox(o.Name)
	if err != nil {
		return err
	}
	status, err := boxes.Get(o.Name)
	if err != nil {
		return err
	}
	if err := app.awaitServices(ctx, boxes, status); err != nil {
		return err
	}
	app.Progress().Close()
	p := agent(status, o.Args)
	p.sshAgent = socket
	return app.finishAgent(ctx, boxes, status, p, o.JSON, o.Wish.with(o.Args))
}

// theSandbox is the one that somebody means who names none: this directory's that
// was used last, or the only one that runs.
func (a *App) theSandbox() (string, error) {
	boxes, err := a.Sandboxes()
	if err != nil {
		return "", err
	}
	all, err := boxes.List()
	if err != nil {
		return "", err
	}
	var here, running []sandbox.Status
	for _, s := range all {
		if s.State == sandbox.Running {
			running = append(running, s)
		}
		if a.Directory != "" && s.Directory == a.Directory && s.State != sandbox.Broken {
			here = append(here, s)
		}
	}
	switch {
	case len(here) > 0:
		return slices.MaxFunc(here, byUse).Name, nil
	case len(running) == 1:
		return running[0].Name, nil
	case len(running) == 0:
		return "", fault.New(fault.NotRunning, "Start one: smolvm claude start", "no sandbox is running")
	}
	var names []string
	for _, s := range running {
		names = append(names, s.Name)
	}
	return "", refuse("Name one: "+strings.Join(names, ", "), "this directory has no sandbox, and %d are running", len(running))
}

// agent is the program that a sandbox was made for, with the user's arguments, or
// where there are none with those that its preset has for that case.
func agent(s sandbox.Status, args []string) program {
	if len(args) == 0 {
		args = s.Arguments
	}
	return program{start: wire.Start{Argv: append(append([]string{}, s.Launch...), args...), Dir: startFolder(s.Mounts), Agent: true}}
}
