package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/ui"
)

// versionOptions are what `version` was asked for.
type versionOptions struct{ JSON bool }

// versionView is `version --json`.
type versionView struct {
	Version     string            `json:"version"`
	Commit      string            `json:"commit"`
	Go          string            `json:"go"`
	Platform    string            `json:"platform"`
	Development bool              `json:"development"`  // trusts this checkout's own key
	GuestAgents map[string]string `json:"guest_agents"` // architecture to SHA-256 of the packed agent; those that are built in
}

func newVersion(app *App, run func(context.Context, *App, versionOptions) error) *cobra.Command {
	o := versionOptions{}
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of smolvm and of its guest agent",
		Example: "  smolvm version\n  smolvm version --json",
		Args:    arguments(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	jsonFlag(cmd, &o.JSON, "versions and digests")
	return cmd
}

func runVersion(_ context.Context, app *App, o versionOptions) error {
	v := app.versions()
	if o.JSON {
		return ui.WriteData(app.Streams.Out, v)
	}
	return app.writeVersion(v)
}

// versions are those of this program and of what is in it.
func (a *App) versions() versionView {
	v := versionView{
		Version: a.Build.Version, Commit: a.Build.Commit, Go: runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH, Development: a.Build.Development,
		GuestAgents: map[string]string{},
	}
	for _, arch := range arches {
		if digest, err := a.Build.AgentDigest(arch); err == nil {
			v.GuestAgents[arch] = digest
		}
	}
	return v
}

func (a *App) writeVersion(v versionView) error {
	kind := "release"
	if v.Development {
		kind = "development build"
	}
	_, err := fmt.Fprintf(a.Streams.Out, "smolvm %s (%s)\ncommit  %s\ngo      %s %s\n", v.Version, kind, v.Commit, v.Go, v.Platform)
	for _, arch := range arches {
		digest := v.GuestAgents[arch]
		if digest == "" {
			digest = "not built in"
		}
		if err == nil {
			_, err = fmt.Fprintf(a.Streams.Out, "guest   %s %s\n", arch, digest)
		}
	}
	return err
}
