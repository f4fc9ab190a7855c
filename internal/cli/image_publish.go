package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/ui"
)

func newImagePublish(app *App, run func(context.Context, *App, imageBuildOptions) error) *cobra.Command {
	o := imageBuildOptions{}
	cmd := &cobra.Command{
		Use:   "publish [FLAGS] DEST PRESET...|--all",
		Short: "Publish images with a signed manifest into a folder or a registry",
		Long: `Publish images into a folder that a web server or a path can serve, or into an
OCI registry: assets named by their digests, and a signed manifest with a row for
each image and each virtual machine monitor. Images that the build cache does not
hold are built first. What is there already stays; nothing is replaced but the
manifest, which comes last, and in a registry only one that a --key has signed.
Every --key signs; with --no-sign nobody believes a folder until 'smolvm image
sign' has signed it. --mirror names where else the same files are, for the manifest
to say so. Beside each image are its bill of materials (SPDX) and what it was built
from.`,
		Example: `  smolvm image publish --key dist/dev/minisign.key dist/images claude
  smolvm image publish --key a.key --key b.key --mirror https://m.example/i/ out claude
  smolvm image publish --key a.key oci://registry.example/agents/smolvm:stable --all`,
		Args: presetsOrAll(&o, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Output, o.Presets = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVar(&o.Release, "release", "", "`NAME` of the release, such as 1.2.0 (default dev- and a digest of the images)")
	cmd.Flags().StringArrayVar(&o.Mirrors, "mirror", nil, "`ADDRESS` of a folder or registry with the same files; may be repeated")
	buildFlags(cmd, &o)
	return cmd
}

// built publishes where that was asked for, and reports.
func (a *App) built(ctx context.Context, publication imagebuild.Publication, images []imagebuild.Image, o imageBuildOptions) error {
	address, err := a.publish(ctx, publication, images)
	if err != nil {
		return err
	}
	views := []builtView{}
	for _, image := range images {
		views = append(views, builtView{
			image.Preset.Name, image.Arch, image.Layer.Record.Version, image.Kernel.Record.Version, address, image.Sizes,
		})
		a.notice("%s %s for %s is built.", image.Preset.Name, image.Layer.Record.Version, image.Arch)
	}
	if address != "" {
		a.notice("Published: %s", address)
	}
	if o.JSON {
		return ui.WriteData(a.Streams.Out, views)
	}
	return a.table(sizeTable(views))
}

// publish gives the manifest's address; without a destination "".
func (a *App) publish(ctx context.Context, p imagebuild.Publication, images []imagebuild.Image) (string, error) {
	switch {
	case p.Dir == "":
		return "", nil
	case inRegistry(p.Dir):
		_, err := p.PublishTo(ctx, a.source(), p.Dir, images)
		return p.Dir, err
	}
	_, err := p.Publish(ctx, images)
	return filepath.Join(p.Dir, imagebuild.ManifestFile), err
}

// publication is where the images go and who signs for them.
func (a *App) publication(o imageBuildOptions) (imagebuild.Publication, error) {
	base, err := imagebuild.ReadBase(a.Presets)
	p := imagebuild.Publication{Base: base, VMMs: []string{config.QEMU, config.Firecracker}, Now: a.Now, Sink: a.Progress()}
	if err != nil || o.Output == "" {
		return p, err
	}
	p.Dir, p.Unsigned, p.Release = o.Output, o.NoSign, o.Release
	p.Mirrors = o.Mirrors
	p.Signers, err = readSigners(o.Keys)
	return p, err
}

// readSigners reads private keys with their public halves.
func readSigners(paths []string) ([]imagebuild.Signer, error) {
	var signers []imagebuild.Signer
	for _, path := range paths {
		private, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.New(fault.Usage, "make build makes a development key.", "read --key: %w", err)
		}
		public, err := readKeyFile(strings.TrimSuffix(path, filepath.Ext(path))+".pub", "the public half of --key "+path)
		if err != nil {
			return nil, err
		}
		signers = append(signers, imagebuild.Signer{Private: string(private), Public: public})
	}
	return signers, nil
}
