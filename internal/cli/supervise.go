package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/supervise"
)

// superviseOptions are what `supervise` was asked for.
type superviseOptions struct{ Home, Name string }

// newSupervise is the command that SmolVM runs itself with: one process for each
// running sandbox. Its surroundings were made by the process that starts it.
func newSupervise(app *App) *cobra.Command {
	o := superviseOptions{}
	cmd := &cobra.Command{
		Use:    "supervise --home DIR --name NAME",
		Short:  "Run the machine of one sandbox (used by smolvm itself)",
		Hidden: true,
		Args:   arguments(0, 0),
		RunE:   func(cmd *cobra.Command, _ []string) error { return runSupervise(cmd.Context(), app, o) },
	}
	cmd.Flags().StringVar(&o.Home, "home", "", "state folder")
	cmd.Flags().StringVar(&o.Name, "name", "", "sandbox")
	return cmd
}

func runSupervise(ctx context.Context, app *App, o superviseOptions) error {
	if o.Home == "" || o.Name == "" {
		return refuse("smolvm start runs it.", "supervise needs --home and --name")
	}
	// Its memory has the sandbox's secrets: a crash must not write it to a file.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("supervise sandbox %q: forbid core dumps: %w", o.Name, err)
	}
	return supervise.Run(ctx, supervise.Options{
		Home: o.Home, Name: o.Name, Agent: app.Build.Agent, Now: app.Now, Log: app.Streams.Err,
		Driver: app.driverOf, Jumps: host.ClockJumps, Groups: cgroup.Here(),
		Authorities: func() ([]string, error) {
			c, err := app.Config()
			if err != nil {
				return nil, err
			}
			return c.HostCA()
		},
	})
}
