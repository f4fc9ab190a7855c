package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/vmm"
)

// imageBuildOptions are what `image build` and `image publish` were asked for.
type imageBuildOptions struct {
	Presets []string
	All     bool     // every preset that has a recipe
	Arch    string   // empty: this computer's
	Output  string   // absolute path of a folder, or oci:// address, to publish to; empty: the build cache only
	Kernel  string   // folder that kernel/build left; empty: a distribution's stands in
	Keys    []string // paths of the private keys that sign
	Release string   // name of the manifest's release; empty: by its content
	NoSign  bool     // publish without signatures
	Pack    string   // how archives are compressed: fast or best
	Newer   bool     // packages of today for the base, where those locked are gone
	Mirrors []string // folders with the same files; nil: as it is
	Network networkOptions
	DryRun  bool
	JSON    bool
}

func newImageBuild(app *App, run func(context.Context, *App, imageBuildOptions) error) *cobra.Command {
	o := imageBuildOptions{}
	cmd := &cobra.Command{
		Use:   "build [FLAGS] PRESET...|--all",
		Short: "Build images from their recipes",
		Long: `Build images from their recipes, inside sandboxes, into the build cache
(SMOLVM_BUILD_CACHE, else build in the state folder). What the cache holds is not
built again. With --output the images are published as 'smolvm image publish'
does. --arch builds for another architecture in an emulated sandbox, which takes
longer and needs QEMU for it.`,
		Example: `  smolvm image build --dry-run claude
  smolvm image build claude codex
  smolvm image build --all --arch arm64
  smolvm image build --output dist/images --key dist/dev/minisign.key claude`,
		Args:              presetsOrAll(&o, 0),
		ValidArgsFunction: app.completePresets,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Presets = args
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVar(&o.Output, "output", "", "`DEST` to publish to: a folder, or oci://HOST/REPOSITORY:TAG")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be built")
	buildFlags(cmd, &o)
	return cmd
}

func buildFlags(cmd *cobra.Command, o *imageBuildOptions) {
	cmd.Flags().StringVar(&o.Arch, "arch", "", "amd64 or arm64 (default this computer's)")
	cmd.Flags().StringVar(&o.Kernel, "kernel", "", "`DIR` that kernel/build left (default a distribution's kernel)")
	cmd.Flags().BoolVar(&o.All, "all", false, "every preset that is published")
	cmd.Flags().StringArrayVar(&o.Keys, "key", nil, keyUsage)
	cmd.Flags().BoolVar(&o.NoSign, "no-sign", false, "publish without signatures, for 'smolvm image sign'")
	cmd.Flags().BoolVar(&o.Newer, "unlocked", false, "build the base from the packages that Debian has today where it does not have those locked any more")
	cmd.Flags().StringVar(&o.Pack, "compression", packFast, "fast, or best: about 16 % smaller, by the zstd program, and minutes longer")
	allowFlags(cmd, &o.Network, "the sandboxes that build")
	jsonFlag(cmd, &o.JSON, "what was built and what it takes, or the plan")
}

// How archives are compressed.
const (
	packFast = "fast"
	packBest = "best"
)

// keyUsage explains --key of the commands that sign.
const keyUsage = "`FILE` with a private minisign key that signs, its public half beside it as .pub; may be repeated"

// presetsOrAll wants presets behind the first n arguments, or --all.
func presetsOrAll(o *imageBuildOptions, n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if o.All {
			return arguments(n, n)(cmd, args)
		}
		return arguments(n+1, anyNumber)(cmd, args)
	}
}

func runImageBuild(ctx context.Context, app *App, o imageBuildOptions) error {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	if !slices.Contains(arches, o.Arch) {
		return refuse("Use amd64 or arm64.", "--arch %q is not an architecture of images", o.Arch)
	}
	if o.Pack != packFast && o.Pack != packBest {
		return refuse(nearHint(o.Pack, []string{packFast, packBest}, "Use fast or best."), "--compression %q is not known", o.Pack)
	}
	switch signs := len(o.Keys) > 0; {
	case signs && o.NoSign:
		return refuse("Leave one of them out.", "--no-sign and --key were given")
	case o.Output == "" && (signs || o.NoSign):
		return refuse("Add --output, or leave it out.", "--key and --no-sign are for publishing, but no destination was given")
	case o.Output != "" && !signs && !o.NoSign:
		return refuse("Give --key FILE; make build makes a development key. --no-sign leaves the signature to smolvm image sign.",
			"publishing needs a key that signs")
	}
	if o.Output != "" {
		dest, err := destination(o.Output, true)
		if err != nil {
			return err
		}
		if o.Output = dest; o.NoSign && inRegistry(dest) {
			return refuse("Publish to a folder, sign that, and mirror it.", "--no-sign: what is in a registry has to be signed")
		}
	}
	request, err := app.buildRequest(o)
	if err != nil {
		return err
	}
	publication, err := app.publication(o)
	if err != nil {
		return err
	}
	policy, err := o.Network.policy(preset.Preset{})
	if err != nil {
		return err
	}
	app.sayIdle(policy, policy.Allow, nil)
	builder, err := app.builder(publication.Base, buildMode{accel: vmm.TCG, best: o.Pack == packBest, policy: policy})
	if err != nil {
		return err
	}
	plan, err := builder.Plan(request)
	if err != nil {
		return err
	}
	if o.DryRun {
		return app.writePlan(plan, o.JSON)
	}
	images, err := builder.Build(ctx, request)
	if err != nil {
		return app.blameProxy(ctx, err, policy)
	}
	return app.built(ctx, publication, images, o)
}

func (a *App) writePlan(plan imagebuild.Plan, json bool) error {
	if json {
		return ui.WriteData(a.Streams.Out, plan)
	}
	return plan.Write(a.Streams.Out)
}

// builtView is an image that was built, in JSON.
type builtView struct {
	Preset   string `json:"preset"`
	Arch     string `json:"arch"`
	Version  string `json:"version"` // of the agent
	Kernel   string `json:"kernel"`
	Manifest string `json:"manifest"` // where it was published; empty: nowhere
	// Sizes are of the kernel's files and the layers, from the kernel up.
	Sizes []imagebuild.Size `json:"sizes"`
}

// sizeTable says what each file takes, those that images share once, and what an
// image is in all.
func sizeTable(views []builtView) *ui.Table {
	table := ui.NewTable("FILE", "COMPRESSED", "EXPANDED", "ON DISK", "FREE")
	shown := map[string]bool{}
	add := func(s imagebuild.Size) {
		table.Add(s.Name, ui.Bytes(s.Compressed), ui.Bytes(s.Expanded), ui.Bytes(s.Allocated), fmt.Sprintf("%.1f %%", percent(s.Free, s.Expanded)))
	}
	for _, v := range views {
		all := imagebuild.Size{Name: v.Preset + " in all"}
		for _, s := range v.Sizes {
			if !shown[s.Name] {
				add(s)
			}
			shown[s.Name] = true
			all.Compressed += s.Compressed
			all.Expanded += s.Expanded
			all.Allocated += s.Allocated
			all.Free += s.Free
		}
		add(all)
	}
	return table
}

func percent(part, whole int64) float64 { return 100 * float64(part) / float64(max(whole, 1)) }

func (a *App) buildRequest(o imageBuildOptions) (imagebuild.Request, error) {
	request := imagebuild.Request{Arch: o.Arch, Kernel: o.Kernel, Unlocked: o.Newer}
	all, err := a.AllPresets()
	if err != nil {
		return request, err
	}
	if o.All {
		request.Presets = slices.DeleteFunc(slices.Clone(all), func(p preset.Preset) bool { return p.Unpublished })
		return request, nil
	}
	names, err := a.presetNames(o.Presets)
	if err != nil {
		return request, err
	}
	for _, name := range names {
		p, _ := preset.Find(all, name)
		request.Presets = append(request.Presets, p)
	}
	return request, nil
}

// buildMode is how something is built.
type buildMode struct {
	accel  vmm.Accel // emulated sandboxes run on every host and for every architecture
	best   bool      // pack for the fewest bytes instead of in the shortest time
	output io.Writer // gets what recipes print; nil: only the log does
	policy egress.Policy
}

// builder builds in sandboxes.
func (a *App) builder(base imagebuild.Base, mode buildMode) (*imagebuild.Builder, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	certificates, err := c.HostCA()
	if err != nil {
		return nil, err
	}
	cache := c.BuildCache
	if cache == "" {
		cache = filepath.Join(c.Home, "build")
	}
	return imagebuild.New(imagebuild.Options{
		Cache: cache, Base: base, Runner: a.runner(), Agent: a.Build.Agent, Revision: a.Build.Commit, Best: mode.best,
		Sink: a.Progress(), Now: a.Now, Output: mode.output,
		Machines: imagebuild.Sandboxes{
			Runner: a.runner(), Accel: mode.accel, CPUs: min(a.Host().CPUs, maxOwnCPUs), Sink: a.Progress(), Now: a.Now,
			Rand: a.Rand, Groups: cgroup.Here(), Env: c.SessionEnv(mode.policy), Egress: mode.policy, CACerts: certificates,
			Offline: proxyOf(c) == "" && !host.Networked(), // a proxy may be on the loopback
		}.Open,
	}), nil
}
