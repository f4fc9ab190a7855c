package cli

import (
	"context"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/release"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageSaveOptions are what `image save` was asked for.
type imageSaveOptions struct {
	Presets []string
	Output  string // path; empty: standard output
	Arch    string // empty: this computer's
	Backend string
	JSON    bool
}

func newImageSave(app *App, run func(context.Context, *App, imageSaveOptions) error) *cobra.Command {
	o := imageSaveOptions{}
	cmd := &cobra.Command{
		Use:   "save [FLAGS] PRESET...",
		Short: "Write images into one tar, for a computer without a network",
		Long: `Write images into one tar, for 'smolvm image load' on a computer without a
network. It carries the signed manifest, and what several images share once. What
is not in the cache yet is downloaded first. The file of --output appears when it
is complete.`,
		Example: `  smolvm image save -o claude.tar claude
  smolvm image save --arch arm64 claude codex | ssh elsewhere smolvm image load`,
		Args:              arguments(1, anyNumber),
		ValidArgsFunction: app.completePresets,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Presets = args
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "`FILE` to write to, instead of standard output")
	machineFlags(cmd, &o.Arch, &o.Backend)
	jsonFlag(cmd, &o.JSON, "what was written; with --output only")
	return cmd
}

func runImageSave(ctx context.Context, app *App, o imageSaveOptions) error {
	out := o.Output
	switch {
	case out == "" && o.JSON:
		return refuse("Give --output FILE.", "the tar and --json cannot both go to standard output")
	case out == "" && app.Streams.OutTTY:
		return refuse("Give --output FILE, or send it into a pipe.", "a terminal is no place for a tar")
	case out != "":
		path, err := filepath.Abs(out)
		if err != nil {
			return refuse("Give an absolute path.", "find the place of --output %q: %w", ui.Clean(out), err)
		}
		out = path
		if err := release.MayWrite(out); err != nil {
			return err
		}
	}
	m, err := app.machineFor(o.Arch, o.Backend)
	if err == nil && !m.named {
		err = app.settle(ctx, &m, 0)
	}
	if err != nil {
		return err
	}
	saved, err := app.savePresets(ctx, o.Presets, m, out)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, saved)
	}
	app.notice("Saved %s of release %s, %s.", savedNames(saved.Images), saved.Release, ui.Bytes(saved.Bytes))
	return nil
}

// savePresets brings the presets' images here and writes them while they are held.
func (a *App) savePresets(ctx context.Context, words []string, m machine, out string) (release.Saved, error) {
	presets, err := a.presetNames(words)
	if err != nil {
		return release.Saved{}, err
	}
	found, err := a.Catalogue(ctx)
	if err != nil {
		return release.Saved{}, err
	}
	rows, err := rowsFor(found, presets, m)
	if err != nil {
		return release.Saved{}, err
	}
	_, leases, err := a.pullRows(ctx, found, rows, false)
	defer a.giveUp(leases...)
	if err != nil {
		return release.Saved{}, err
	}
	images := make([]release.Image, len(rows))
	for i, row := range rows {
		images[i] = release.Image{Preset: row.Preset, Arch: row.Arch, VMM: row.VMM}
	}
	defer a.whenInterrupted(ctx, "Nothing usable was written: save again.")()
	return a.Save(ctx, found, images, out, a.Streams.Out)
}

func savedNames(images []release.Image) string {
	names := make([]string, len(images))
	for i, image := range images {
		names[i] = image.String()
	}
	return strings.Join(names, ", ")
}

// save writes images that are in the cache.
func (a *App) save(ctx context.Context, found resolve.Catalogue, images []release.Image, path string, out io.Writer) (release.Saved, error) {
	cache, err := a.openStore()
	if err != nil {
		return release.Saved{}, err
	}
	if path != "" {
		return release.SaveFile(ctx, cache, found, images, path, a.releaseOptions())
	}
	return release.Save(ctx, cache, found, images, out, a.releaseOptions())
}

func (a *App) releaseOptions() release.Options {
	return release.Options{Sink: a.Progress(), Now: a.Now}
}
