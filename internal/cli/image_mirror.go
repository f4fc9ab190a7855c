package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/release"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageMirrorOptions are what `image mirror` was asked for.
type imageMirrorOptions struct {
	Destination string // absolute path, or oci:// address
	JSON        bool
}

func newImageMirror(app *App, run func(context.Context, *App, imageMirrorOptions) error) *cobra.Command {
	o := imageMirrorOptions{}
	cmd := &cobra.Command{
		Use:   "mirror [FLAGS] DEST",
		Short: "Copy a whole release into a folder or a registry",
		Long: `Copy everything that the catalogue's manifest names, for all architectures, into
a folder that a path or any web server can serve, or into an OCI registry. Every
file is verified, the manifest comes last, and what is there already stays. A
mirror that was interrupted is continued by the same command.`,
		Example: `  smolvm image mirror /srv/smolvm
  smolvm image mirror oci://registry.example/agents/smolvm:stable`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Destination = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the mirror's address and bytes")
	return cmd
}

func runImageMirror(ctx context.Context, app *App, o imageMirrorOptions) error {
	if !strings.Contains(o.Destination, "://") {
		path, err := filepath.Abs(o.Destination)
		if err != nil {
			return refuse("Give an absolute path.", "find the folder %q: %w", ui.Clean(o.Destination), err)
		}
		o.Destination = path
	}
	found, err := app.Catalogue(ctx)
	if err != nil {
		return err
	}
	defer app.whenInterrupted(ctx, "What was copied is kept: the same command goes on from there.")()
	mirrored, err := app.Mirror(ctx, found, o.Destination)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, mirrored)
	}
	app.notice("Release %s is mirrored: %d files, %s, of which %s were copied now.",
		mirrored.Release, mirrored.Files, ui.Bytes(mirrored.Bytes), ui.Bytes(mirrored.Copied))
	_, err = fmt.Fprintln(app.Streams.Out, mirrored.Address)
	return err
}

// mirror copies a catalogue that was believed.
func (a *App) mirror(ctx context.Context, found resolve.Catalogue, dest string) (release.Mirrored, error) {
	rules, err := a.rulesAt(found.Address)
	if err != nil {
		return release.Mirrored{}, err
	}
	return release.Mirror(ctx, found, dest, release.MirrorOptions{
		Options: a.releaseOptions(), Source: a.source(), Rules: rules,
	})
}
