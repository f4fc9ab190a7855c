package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/ui"
)

func newImage(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "image",
		Short: "List, pull, check, move, build and publish sandbox images",
		Example: `  smolvm image list
  smolvm image pull claude
  smolvm image save -o claude.tar claude`,
	})
	cmd.AddCommand(
		newImageList(app, runImageList), newImagePull(app, runImagePull), newImageInspect(app, runImageInspect),
		newImageVerify(app, runImageVerify), newImageRemove(app, runImageRemove),
		newImageSave(app, runImageSave), newImageLoad(app, runImageLoad), newImageMirror(app, runImageMirror),
		newImageBuild(app, runImageBuild), newImagePublish(app, runImageBuild),
		newImageSign(app, runImageSign), newImageCheck(app, runImageCheck), newImageRotate(app, runImageRotate))
	return cmd
}

// imageListOptions are what `image list` was asked for.
type imageListOptions struct{ Available, JSON bool }

func newImageList(app *App, run func(context.Context, *App, imageListOptions) error) *cobra.Command {
	o := imageListOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images in the cache, or those that are published",
		Example: `  smolvm image list
  smolvm image list --available --json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().BoolVar(&o.Available, "available", false, "list what the manifest offers instead")
	jsonFlag(cmd, &o.JSON, "an array of images")
	return cmd
}

func runImageList(ctx context.Context, app *App, o imageListOptions) error {
	if o.Available {
		return app.listAvailable(ctx, o.JSON)
	}
	images, err := app.Cached()
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, images)
	}
	if len(images) == 0 {
		app.Streams.Say("No images are in the cache. Get one: smolvm image pull claude")
		return nil
	}
	table := ui.NewTable("PRESET", "ARCH", "VMM", "RELEASE", "SIZE", "ON DISK")
	for _, i := range images {
		table.Add(i.Preset, i.Arch, i.VMM, i.Release, ui.Bytes(i.Size), ui.Bytes(i.Allocated))
	}
	return app.table(table)
}

// availableView is an image that the manifest offers, in JSON.
type availableView struct {
	Preset   string     `json:"preset"`
	Arch     string     `json:"arch"`
	VMM      string     `json:"vmm"`
	Release  string     `json:"release"`
	Agent    agentView  `json:"agent"`
	Kernel   kernelView `json:"kernel"`
	Download int64      `json:"download_bytes"`
	Size     int64      `json:"size_bytes"`
}

func (a *App) listAvailable(ctx context.Context, json bool) error {
	found, err := a.Catalogue(ctx)
	if err != nil {
		return err
	}
	views := make([]availableView, 0, len(found.Manifest.Rows))
	for _, row := range found.Manifest.Rows {
		views = append(views, availableOf(found.Manifest.Release, row))
	}
	if json {
		return ui.WriteData(a.Streams.Out, views)
	}
	table := ui.NewTable("PRESET", "AGENT", "ARCH", "VMM", "KERNEL", "RELEASE", "DOWNLOAD", "SIZE")
	for _, v := range views {
		table.Add(v.Preset, v.Agent.Version, v.Arch, v.VMM, kernelText(v.Kernel), v.Release, ui.Bytes(v.Download), ui.Bytes(v.Size))
	}
	return a.table(table)
}

func availableOf(release string, row manifest.Row) availableView {
	v := availableView{
		Preset: row.Preset, Arch: row.Arch, VMM: row.VMM, Release: release,
		Agent: agentView(row.Agent), Kernel: kernelView{row.Kernel.Version, row.Kernel.StandIn},
	}
	for _, asset := range row.Assets() {
		v.Download += asset.Archive.Size
		v.Size += asset.Content.Size
	}
	return v
}
