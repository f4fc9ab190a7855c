package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/wire"
)

// sshOptions are what `ssh` was asked for.
type sshOptions struct {
	Name    string
	Command []string // empty: a login shell
	User    string
	Stdio   bool
}

func newSSH(app *App, run func(context.Context, *App, sshOptions) error) *cobra.Command {
	o := sshOptions{}
	cmd := &cobra.Command{
		Use:   "ssh [--user USER] NAME [COMMAND...] | ssh --stdio NAME",
		Short: "Open a shell in a running sandbox, or carry an SSH connection to it",
		Long: `Open a login shell in a running sandbox, or run a command line there as ssh
would: its words are joined with spaces and given to a shell. The exit status is
handed back. Nothing but what the other end says is printed.

With --stdio, standard input and output carry a bare SSH connection to the
sandbox, for OpenSSH and all that builds on it (scp, rsync, editors):

  ssh -o ProxyCommand='smolvm ssh --stdio NAME' -l agent \
      -i HOME/sandboxes/NAME/ssh/client_ed25519 -o IdentitiesOnly=yes \
      -o UserKnownHostsFile=HOME/sandboxes/NAME/ssh/known_hosts \
      -o StrictHostKeyChecking=yes NAME

where HOME is the state folder. 'smolvm info NAME' prints that command with its
paths filled in.`,
		Example: `  smolvm ssh claude-code
  smolvm ssh claude-code 'cd /workspace && ls | wc -l'
  smolvm ssh --user root claude-code
  smolvm ssh --stdio claude-code`,
		Args:              arguments(1, anyNumber),
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Command = args[0], withoutDash(args[1:])
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&o.User, "user", "u", wire.AgentUser, "user in the sandbox: agent or root")
	cmd.Flags().BoolVar(&o.Stdio, "stdio", false, "carry a bare SSH connection, as a ProxyCommand does")
	handBack(cmd)
	return cmd
}

func runSSH(ctx context.Context, app *App, o sshOptions) error {
	if err := checkUser(o.User); err != nil {
		return err
	}
	if o.Stdio && len(o.Command) > 0 {
		return refuse("The SSH client at the other end names the command.", "--stdio and a command exclude each other")
	}
	boxes, err := app.runningSandbox(o.Name)
	if err != nil {
		return err
	}
	if !o.Stdio {
		return app.finish(ctx, boxes, o.Name, program{start: wire.Start{Argv: shellLine(o.Command), User: o.User}}, false)
	}
	conn, err := boxes.Connect(ctx, o.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.SSH(ctx, duplex{app.Streams.In, app.Streams.Out})
	if ctx.Err() != nil { // OpenSSH ends its proxy command by SIGHUP: nothing is wrong
		return programExit(fault.Interrupted.Exit())
	}
	return err
}

// shellLine makes a command line for the user's shell of words, as ssh does.
func shellLine(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	return []string{"bash", "-lc", strings.Join(words, " ")}
}
