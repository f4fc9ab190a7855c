package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/ui"
)

// imagePullOptions are what `image pull` was asked for.
type imagePullOptions struct {
	Presets []string
	All     bool
	Arch    string // empty: this computer's
	Backend string
	Keep    bool // the archive, too
	JSON    bool
}

func newImagePull(app *App, run func(context.Context, *App, imagePullOptions) error) *cobra.Command {
	o := imagePullOptions{}
	cmd := &cobra.Command{
		Use:   "pull PRESET... | pull --all",
		Short: "Download and verify images into the cache",
		Long: `Download and verify images into the cache, so that the next start finds them
there. What is there already, whole or in part, is not downloaded again: a pull
that was interrupted goes on where it stopped, and of a newer image only the
parts that changed are downloaded.`,
		Example: `  smolvm image pull claude
  smolvm image pull --all --arch arm64
  smolvm image pull --keep-archive claude`,
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
	cmd.Flags().BoolVar(&o.Keep, "keep-archive", false, "keep the downloaded .zst files beside the expanded ones")
	machineFlags(cmd, &o.Arch, &o.Backend)
	jsonFlag(cmd, &o.JSON, "an array of what was pulled")
	return cmd
}

// machineFlags choose images for another machine than the one a start would use.
func machineFlags(cmd *cobra.Command, arch, backend *string) {
	cmd.Flags().StringVar(arch, "arch", "", "amd64 or arm64 (default this computer's)")
	cmd.Flags().StringVar(backend, "backend", "", "virtual machine monitor: qemu or firecracker (default SMOLVM_BACKEND, else chosen)")
}

// machineFor is the machine that images are asked for.
func (a *App) machineFor(arch, backend string) (machine, error) {
	if arch != "" && !slices.Contains(arches, arch) {
		return machine{}, refuse(nearHint(arch, arches, "Use amd64 or arm64."), "--arch %q is not an architecture of images", arch)
	}
	return a.Machine(arch, backend)
}

func runImagePull(ctx context.Context, app *App, o imagePullOptions) error {
	m, err := app.machineFor(o.Arch, o.Backend)
	if err == nil && !m.named {
		err = app.settle(ctx, &m, 0)
	}
	if err != nil {
		return err
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
	done, leases, err := app.pullRows(ctx, found, rows, o.Keep)
	app.giveUp(leases...)
	if err != nil || !o.JSON {
		return err
	}
	return ui.WriteData(app.Streams.Out, done)
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

// resumeHint is what a user who interrupted a download wants to know.
const resumeHint = "What was downloaded and verified is kept: the next pull or start goes on from there."

// pullRows brings images into the cache. They stay there until the leases are
// given up, also when one of them failed.
func (a *App) pullRows(ctx context.Context, found resolve.Catalogue, rows []manifest.Row, keep bool) (done []pulled, leases []lease, err error) {
	defer a.whenInterrupted(ctx, resumeHint)()
	done = []pulled{}
	for _, row := range rows {
		image, lease, err := a.Pull(ctx, found, row, keep)
		if err != nil {
			return done, leases, err
		}
		leases = append(leases, lease)
		done = append(done, pulled{
			row.Preset, row.Arch, row.VMM, image.Release,
			kernelView{image.KernelVersion, image.StandIn},
			image.Layers,
		})
		a.notice("%s %s for %s on %s is in the cache.", row.Preset, image.Release, row.VMM, row.Arch)
	}
	return done, leases, nil
}

// rowsFor finds the presets' images, all of the machine's where no preset is named.
func rowsFor(found resolve.Catalogue, presets []string, m machine) ([]manifest.Row, error) {
	rows, err := rowsOf(found, presets, m)
	if err != nil && m.vmm == config.Firecracker && !m.named { // as a start would
		m.vmm = config.QEMU
		return rowsOf(found, presets, m)
	}
	return rows, err
}

func rowsOf(found resolve.Catalogue, presets []string, m machine) ([]manifest.Row, error) {
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
