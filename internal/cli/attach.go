package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/wire"
)

// attachOptions are what `attach` was asked for.
type attachOptions struct {
	Name     string
	Args     []string // for the agent
	JSON     bool
	SSHAgent bool
}

func newAttach(app *App, run func(context.Context, *App, attachOptions) error) *cobra.Command {
	o := attachOptions{}
	cmd := &cobra.Command{
		Use:   "attach [FLAGS] NAME [-- AGENT ARGS...]",
		Short: "Run the agent of a running sandbox in front of you",
		Long: `Run the agent of a running sandbox in front of you and hand back its exit
status. Every attach is a session of its own; the sandbox keeps running when it
ends.`,
		Example: `  smolvm attach claude-code
  smolvm attach claude-code -- -p "what changed today?"`,
		Args:              nameThenArgs,
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Args = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the exit status and both outputs, captured")
	sshAgentFlag(cmd, &o.SSHAgent)
	handBack(cmd)
	return cmd
}

func runAttach(ctx context.Context, app *App, o attachOptions) error {
	socket, err := app.sshAgent(o.SSHAgent)
	if err != nil {
		return err
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
	err = app.finish(ctx, boxes, o.Name, p, o.JSON)
	app.copyBack(context.WithoutCancel(ctx), boxes, status)
	return err
}

// agent is the program that a sandbox was made for, with the user's arguments, or
// where there are none with those that its preset has for that case.
func agent(s sandbox.Status, args []string) program {
	if len(args) == 0 {
		args = s.Arguments
	}
	return program{start: wire.Start{Argv: append(append([]string{}, s.Launch...), args...), Dir: startFolder(s.Mounts), Agent: true}}
}
