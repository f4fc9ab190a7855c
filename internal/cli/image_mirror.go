package cli

import (
	"context"
	"fmt"
	"net/url"
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
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Destination = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the mirror's address and bytes")
	return cmd
}

func runImageMirror(ctx context.Context, app *App, o imageMirrorOptions) error {
	var err error
	if o.Destination, err = destination(o.Destination, true); err != nil {
		return err
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

// destination is where something is published: an absolute path or, where that is
// possible, a registry. Other addresses are no folders, whatever they look like.
func destination(word string, registry bool) (string, error) {
	hint := "Name a folder by its path."
	if registry {
		hint = "Name a folder by its path, or a registry as oci://HOST/REPOSITORY:TAG."
	}
	if word == "" { // an unset variable of a shell is not the current folder
		return "", refuse(hint, "the destination is empty")
	}
	scheme, rest, isURL := strings.Cut(word, "://")
	switch scheme = strings.ToLower(scheme); {
	case isURL && scheme == "oci" && registry:
		return "oci://" + rest, nil
	case isURL && scheme == "file":
		address, err := url.Parse(word)
		if err != nil || address.Host != "" && address.Host != "localhost" || !filepath.IsAbs(address.Path) {
			return "", refuse(hint, "%q is not the address of a folder", ui.Clean(word))
		}
		word = address.Path
	case isURL:
		return "", refuse(hint, "nothing can be published at a %q address", ui.Clean(scheme)+"://")
	}
	path, err := filepath.Abs(word)
	if err != nil {
		return "", refuse("Give an absolute path.", "find the folder %q: %w", ui.Clean(word), err)
	}
	return path, nil
}

// inRegistry tells the two kinds of destinations apart.
func inRegistry(destination string) bool { return strings.HasPrefix(destination, "oci://") }

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
