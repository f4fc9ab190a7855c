package cli

import (
	"github.com/spf13/cobra"
)

// newSupervise is the command that SmolVM runs itself with: one process for each
// running sandbox.
func newSupervise(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use:    "supervise --home DIR --name NAME",
		Short:  "Run the machine of one sandbox (used by smolvm itself)",
		Hidden: true,
		Args:   usage(cobra.NoArgs),
	}
	return cmd
}
