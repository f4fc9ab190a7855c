package cli

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/release"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageLoadOptions are what `image load` was asked for.
type imageLoadOptions struct {
	Input string // path; empty: standard input
	JSON  bool
}

func newImageLoad(app *App, run func(context.Context, *App, imageLoadOptions) error) *cobra.Command {
	o := imageLoadOptions{}
	cmd := &cobra.Command{
		Use:   "load [FLAGS]",
		Short: "Take in images that 'smolvm image save' wrote",
		Long: `Take in images that 'smolvm image save' wrote, without a network. The manifest in
the tar has to be signed by keys that are trusted for its catalogue here, and
every byte is compared with it. After that, start works from the cache by the
catalogue's address; --manifest says by which, if not by the one in the tar.`,
		Example: `  smolvm image load -i claude.tar
  ssh elsewhere smolvm image save claude | smolvm image load`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().StringVarP(&o.Input, "input", "i", "", "`FILE` to read, instead of standard input")
	jsonFlag(cmd, &o.JSON, "what was taken in")
	return cmd
}

func runImageLoad(ctx context.Context, app *App, o imageLoadOptions) error {
	in := app.Streams.In
	switch {
	case o.Input == "" && app.Streams.InTTY:
		return refuse("Give --input FILE, or send the tar through a pipe.", "a terminal has no tar to load")
	case o.Input != "":
		file, err := os.Open(o.Input)
		if err != nil {
			return fault.New(fault.NotFound, "Check the path.", "read --input: %w", err)
		}
		defer file.Close()
		in = file
	}
	defer app.whenInterrupted(ctx, "Nothing of it is used; what was verified is kept for the next load.")()
	loaded, err := app.Load(ctx, in)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, loaded)
	}
	app.notice("Loaded %s of release %s from %s, signed by %s.",
		savedNames(loaded.Images), loaded.Release, loaded.Address, listed(loaded.Signers))
	for _, image := range loaded.Images {
		app.notice("Start it with: smolvm %s start%s", image.Preset, app.manifestFlag(loaded.Address))
	}
	return nil
}

// manifestFlag names a catalogue to later commands, which may have another or none.
func (a *App) manifestFlag(address string) string {
	c, err := config.Load(a.Environ, a.UserHome)
	if err == nil && config.SameAddress(resolve.Address(c), address) {
		return ""
	}
	return " --manifest " + fetch.Shown(address)
}

// load takes in a tar for the catalogue that was named, else for the tar's own.
func (a *App) load(ctx context.Context, in io.Reader) (release.Loaded, error) {
	cache, err := a.openStore()
	if err != nil {
		return release.Loaded{}, err
	}
	c, err := a.Config()
	if err != nil {
		return release.Loaded{}, err
	}
	return release.Load(ctx, cache, in, release.LoadOptions{
		Options: a.releaseOptions(), Address: c.Manifest, Rules: a.rulesAt,
	})
}
