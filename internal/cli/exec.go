package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/wire"
)

// execOptions are what `exec` was asked for.
type execOptions struct {
	Name     string
	Argv     []string
	User     string
	Dir      string
	NoTTY    bool
	TTY      bool
	Input    bool // it gets this command's input
	Env      []string
	EnvFiles []string
	JSON     bool
	SSHAgent bool
}

func newExec(app *App, run func(context.Context, *App, execOptions) error) *cobra.Command {
	o := execOptions{}
	cmd := &cobra.Command{
		Use:   "exec [FLAGS] NAME [--] COMMAND [ARG...]",
		Short: "Run a command in a running sandbox",
		Long: `Run a command in a running sandbox and hand back its exit status.

The command is run as it is, without a shell. It gets a terminal when standard
input and output are terminals, or with -t; otherwise its three streams are three
pipes. It gets this command's input, but none with -i=false. With -e it gets
variables, which no other program in the sandbox gets.

Without a terminal INT, TERM, HUP and QUIT are passed on to it, and the third of
them ends it; USR1, USR2, ALRM, CONT, WINCH and ABRT always are.

Status 127 means that there is no such command in the sandbox, 126 that it
cannot be run, 125 that SmolVM failed.`,
		Example: `  smolvm exec claude-code git -C /workspace status
  echo hello | smolvm exec claude-code -- tr a-z A-Z
  smolvm exec -e DEBUG=1 -w /workspace/app claude-code npm test
  smolvm exec -t claude-code -- ls --color=auto | less -R
  smolvm exec --user root claude-code apt-get update`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(withoutDash(args[1:])) == 0 {
				return refuse("Usage: "+cmd.UseLine(), "exec needs a sandbox and a command")
			}
			return nil
		},
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Argv = args[0], withoutDash(args[1:])
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&o.User, "user", "u", wire.AgentUser, "user in the sandbox: agent or root")
	cmd.Flags().StringVarP(&o.Dir, "workdir", "w", "", "directory in the sandbox (default "+wire.Workspace+")")
	cmd.Flags().BoolVarP(&o.Input, "interactive", "i", true, "pass this command's input on")
	cmd.Flags().BoolVarP(&o.TTY, "tty", "t", false, "give the command a terminal, also where there is none here")
	cmd.Flags().StringArrayVarP(&o.Env, "env", "e", nil, "`NAME[=VALUE]` for the command; without a value yours; may be repeated")
	cmd.Flags().StringArrayVar(&o.EnvFiles, "env-file", nil, "`FILE` with NAME or NAME=VALUE lines, as for -e; may be repeated")
	cmd.Flags().BoolVarP(&o.NoTTY, "no-tty", "T", false, "never give the command a terminal")
	jsonFlag(cmd, &o.JSON, "the exit status and both outputs, captured")
	sshAgentFlag(cmd, &o.SSHAgent)
	handBack(cmd)
	return cmd
}

func runExec(ctx context.Context, app *App, o execOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := app.Config()
	if err != nil {
		return err
	}
	env, err := c.Variables(o.Env, o.EnvFiles)
	if err != nil {
		return err
	}
	socket, err := app.sshAgent(o.SSHAgent)
	if err != nil {
		return err
	}
	boxes, err := app.runningSandbox(o.Name)
	if err != nil {
		return err
	}
	p := program{start: wire.Start{Argv: o.Argv, User: o.User, Dir: o.Dir, Env: env}, sshAgent: socket, empty: !o.Input}
	switch {
	case o.NoTTY:
		p.terminal = never
	case o.TTY:
		p.terminal = always
	}
	return app.finish(ctx, boxes, o.Name, p, o.JSON)
}

// check refuses what contradicts itself.
func (o execOptions) check() error {
	switch {
	case o.TTY && o.NoTTY:
		return refuse("Give one of them.", "-t and -T exclude each other")
	case o.TTY && o.JSON:
		return refuse("Leave -t out.", "--json captures two outputs, and a terminal has one")
	case o.TTY && !o.Input:
		return refuse("Leave one of them out.", "-t gives the command a terminal, which -i=false takes its input from")
	}
	return checkUser(o.User)
}
