package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageSignOptions are what `image sign` was asked for.
type imageSignOptions struct {
	Dir  string
	Keys []string // paths of the private keys that sign
	JSON bool
}

func newImageSign(app *App, run func(context.Context, *App, imageSignOptions) error) *cobra.Command {
	o := imageSignOptions{}
	cmd := &cobra.Command{
		Use:   "sign [FLAGS] DIR",
		Short: "Sign the manifest of a published folder",
		Long: `Sign the manifest of a folder that 'smolvm image publish' left, with --no-sign or
with other keys. Signatures that are there stay, and nothing else is written. So
images can be built where no key is, and signed where nothing else runs. A key
that the folder's newest key list does not have is refused.`,
		Example: `  smolvm image publish --no-sign out claude codex
  smolvm image sign --key release.key out`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringArrayVar(&o.Keys, "key", nil, keyUsage)
	jsonFlag(cmd, &o.JSON, "the manifest and who signed it")
	return cmd
}

func runImageSign(ctx context.Context, app *App, o imageSignOptions) error {
	if len(o.Keys) == 0 {
		return refuse("Give --key for each key that signs.", "nothing can be signed without a key")
	}
	dir, err := destination(o.Dir, false)
	if err != nil {
		return err
	}
	signers, err := readSigners(o.Keys)
	if err != nil {
		return err
	}
	signed, err := imagebuild.Signing{Dir: dir, Signers: signers, Now: app.Now, Sink: app.Progress()}.Sign(ctx)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, signed)
	}
	app.notice("Signed by %s: %s, release %s, serial %d.", listed(signed.Signers), filepath.Join(dir, imagebuild.ManifestFile), signed.Release, signed.Serial)
	if signed.Missing > 0 {
		app.notice("Nobody believes it yet: %d more keys of its key list have to sign.", signed.Missing)
	}
	return nil
}
