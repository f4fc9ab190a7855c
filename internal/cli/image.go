package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/ui"
)

func newImage(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "image",
		Short:   "List, pull, build and publish sandbox images",
		Example: "  smolvm image list\n  smolvm image pull claude",
	})
	cmd.AddCommand(newImageList(app, runImageList), newImagePull(app, runImagePull),
		newImageBuild(app, runImageBuild), newImagePublish(app, runImageBuild))
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
		Args: usage(cobra.NoArgs),
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
	return table.Write(app.Streams.Out)
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
	return table.Write(a.Streams.Out)
}

func availableOf(release string, row manifest.Row) availableView {
	v := availableView{
		Preset: row.Preset, Arch: row.Arch, VMM: row.VMM, Release: release,
		Agent: agentView(row.Agent), Kernel: kernelView{row.Kernel.Version, row.Kernel.StandIn},
	}
	for _, asset := range assets(row) {
		v.Download += asset.Archive.Size
		v.Size += asset.Content.Size
	}
	return v
}

// assets are all files of an image.
func assets(row manifest.Row) []manifest.Asset {
	all := append([]manifest.Asset{row.Kernel.Image}, row.Layers...)
	if row.Kernel.Modules != nil {
		all = append(all, *row.Kernel.Modules)
	}
	return all
}

// imagePullOptions are what `image pull` was asked for.
type imagePullOptions struct {
	Presets []string
	All     bool
	Arch    string // empty: this computer's
	Backend string
	JSON    bool
}

func newImagePull(app *App, run func(context.Context, *App, imagePullOptions) error) *cobra.Command {
	o := imagePullOptions{}
	cmd := &cobra.Command{
		Use:   "pull PRESET... | pull --all",
		Short: "Download and verify images into the cache",
		Long: `Download and verify images into the cache, so that the next start finds them
there. What is there already is not downloaded again.`,
		Example: `  smolvm image pull claude
  smolvm image pull --all --arch arm64`,
		ValidArgsFunction: app.completePresets,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.All == (len(args) > 0) {
				return refuse("Usage: smolvm image pull PRESET... | --all", "give presets or --all, one of both")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Presets = args
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.All, "all", false, "every preset that is published for this computer")
	cmd.Flags().StringVar(&o.Arch, "arch", "", "amd64 or arm64 (default this computer's)")
	cmd.Flags().StringVar(&o.Backend, "backend", "", "virtual machine monitor: qemu (default SMOLVM_BACKEND, else chosen)")
	jsonFlag(cmd, &o.JSON, "an array of what was pulled")
	return cmd
}

func runImagePull(ctx context.Context, app *App, o imagePullOptions) error {
	m, err := app.Machine(o.Backend)
	if err != nil {
		return err
	}
	if o.Arch != "" {
		if !slices.Contains(arches, o.Arch) {
			return refuse("Use amd64 or arm64.", "--arch %q is not an architecture of images", o.Arch)
		}
		m.arch = o.Arch
	}
	presets, err := app.presetNames(o.Presets)
	if err != nil {
		return err
	}
	found, err := app.Catalogue(ctx)
	if err != nil {
		return err
	}
	rows, err := rowsFor(found, presets, m)
	if err != nil {
		return err
	}
	return app.pullRows(ctx, found, rows, o.JSON)
}

// pulled is one image that is in the cache now.
type pulled struct {
	Preset  string         `json:"preset"`
	Arch    string         `json:"arch"`
	VMM     string         `json:"vmm"`
	Release string         `json:"release"`
	Kernel  kernelView     `json:"kernel"`
	Layers  []record.Layer `json:"layers"`
}

func (a *App) pullRows(ctx context.Context, found resolve.Catalogue, rows []manifest.Row, json bool) error {
	done := []pulled{}
	for _, row := range rows {
		image, err := a.Pull(ctx, found, row)
		if err != nil {
			return err
		}
		done = append(done, pulled{
			row.Preset, row.Arch, row.VMM, image.Release,
			kernelView{image.KernelVersion, image.StandIn},
			image.Layers,
		})
		a.notice("%s %s for %s on %s is in the cache.", row.Preset, image.Release, row.VMM, row.Arch)
	}
	if json {
		return ui.WriteData(a.Streams.Out, done)
	}
	return nil
}

// rowsFor finds the presets' images, all of the machine's where no preset is named.
func rowsFor(found resolve.Catalogue, presets []string, m machine) ([]manifest.Row, error) {
	var rows []manifest.Row
	for _, row := range found.Manifest.Rows {
		if len(presets) == 0 && row.Arch == m.arch && row.VMM == m.vmm {
			rows = append(rows, row)
		}
	}
	for _, preset := range presets {
		row, there := found.Find(preset, m.arch, m.vmm)
		if !there {
			return nil, notPublished(preset, m, found)
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, fault.New(fault.NotFound, "See smolvm image list --available.", "no image for %s on %s is published", m.vmm, m.arch)
	}
	return rows, nil
}

// presetNames turns words into names of presets.
func (a *App) presetNames(words []string) ([]string, error) {
	all, err := a.AllPresets()
	if err != nil {
		return nil, err
	}
	known, names := map[string]string{}, []string{}
	var offered []string
	for _, p := range all {
		for _, word := range append([]string{p.Name}, p.Aliases...) {
			known[word] = p.Name
			offered = append(offered, word)
		}
	}
	for _, word := range words {
		name, there := known[word]
		if !there {
			return nil, fault.New(fault.NotFound, nearHint(word, offered, "See smolvm --help."), "there is no preset %q", ui.Clean(word))
		}
		names = append(names, name)
	}
	return names, nil
}

// completePresets offers the names of presets.
func (a *App) completePresets(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, _ := a.AllPresets() // no names are better than an error in the middle of a line
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
