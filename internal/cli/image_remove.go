package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/store"
)

// imageRemoveOptions are what `image rm` was asked for.
type imageRemoveOptions struct {
	Images []string
	DryRun bool
	JSON   bool
}

func newImageRemove(app *App, run func(context.Context, *App, imageRemoveOptions) error) *cobra.Command {
	o := imageRemoveOptions{}
	cmd := &cobra.Command{
		Use:     "rm IMAGE...",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove images from the cache",
		Long: `Remove images from the cache, with the files that no other image shows. An image
that a sandbox stands on, running or stopped, is refused, and then none is
removed.

` + imageSyntax,
		Example: `  smolvm image rm claude
  smolvm image rm 1.0.0/claude-code-amd64-qemu`,
		Args:              arguments(1, anyNumber),
		ValidArgsFunction: app.completeCached,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Images = args
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would go")
	jsonFlag(cmd, &o.JSON, "what went, or with --dry-run would go")
	return cmd
}

func runImageRemove(ctx context.Context, app *App, o imageRemoveOptions) error {
	images, err := app.pickCached(o.Images)
	if err != nil {
		return err
	}
	defer app.whenInterrupted(ctx, "What is left is removed by the next prune.")()
	done := event.Span(app.Progress(), app.Now, event.Prune, "")
	removed, err := app.Remove(ctx, images, o.DryRun)
	done(0)
	if err != nil {
		return err
	}
	return app.showPruned(removed, o.DryRun, o.JSON)
}

// removeImages removes images that no sandbox needs.
func (a *App) removeImages(ctx context.Context, images []store.Image, dryRun bool) (store.Pruned, error) {
	cache, err := a.openStore()
	if err != nil {
		return store.Pruned{}, err
	}
	return cache.Remove(ctx, images, a.holders, dryRun)
}
