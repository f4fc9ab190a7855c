package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageRotateOptions are what `image rotate` was asked for.
type imageRotateOptions struct {
	Dir       string
	Keys      []string // paths of the private keys that sign the list
	Trust     []string // paths of the public keys in the list
	Threshold int
	JSON      bool
}

// rotatedView is `image rotate --json`.
type rotatedView struct {
	Version   int      `json:"key_list"`
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // ids
	File      string   `json:"file"`
}

func newImageRotate(app *App, run func(context.Context, *App, imageRotateOptions) error) *cobra.Command {
	o := imageRotateOptions{}
	cmd := &cobra.Command{
		Use:   "rotate [FLAGS] DIR",
		Short: "Name the keys that sign a published folder from now on",
		Long: `Name the keys that sign a published folder from now on, in a key list that the
keys trusted so far sign, too. Whoever trusts those follows by himself. As many
of the old keys have to sign as had to so far, and --threshold of the new ones;
the new ones also sign the manifest that is there. Later images are published
with the new keys.`,
		Example: `  smolvm image rotate --key old.key --key new.key --trust new.pub dist/images
  smolvm image rotate --key a.key --key c.key --trust b.pub --trust c.pub out`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringArrayVar(&o.Keys, "key", nil, "`FILE` with a private key that signs the list, old or new, its public half beside it as .pub; may be repeated")
	cmd.Flags().StringArrayVar(&o.Trust, "trust", nil, "`FILE` with a public key that is in the new list; may be repeated")
	cmd.Flags().IntVar(&o.Threshold, "threshold", 1, "how many keys of the new list have to sign")
	jsonFlag(cmd, &o.JSON, "the new key list")
	return cmd
}

func runImageRotate(ctx context.Context, app *App, o imageRotateOptions) error {
	switch {
	case len(o.Keys) == 0 || len(o.Trust) == 0:
		return refuse("Give --key for each key that signs and --trust for each that is in the list.", "a new key list needs keys and signatures")
	case o.Threshold < 1 || o.Threshold > len(o.Trust):
		return refuse("", "--threshold %d is not between 1 and the number of --trust keys (%d)", o.Threshold, len(o.Trust))
	}
	dir, err := destination(o.Dir, false)
	if err != nil {
		return err
	}
	r := imagebuild.Rotation{Dir: dir, Threshold: o.Threshold, Now: app.Now, Sink: app.Progress()}
	if r.Signers, err = readSigners(o.Keys); err != nil {
		return err
	}
	for _, path := range o.Trust {
		key, err := readKeyFile(path, "--trust")
		if err != nil {
			return err
		}
		r.Keys = append(r.Keys, key)
	}
	list, err := r.Publish(ctx)
	if err != nil {
		return err
	}
	return app.rotated(list, dir, o.JSON)
}

func (a *App) rotated(list trust.KeyList, dir string, json bool) error {
	view := rotatedView{list.Version, list.Threshold, []string{}, filepath.Join(dir, trust.KeyListFile(list.Version))}
	for _, key := range keyViews(list.Keys) {
		view.Keys = append(view.Keys, key.ID)
	}
	if json {
		return ui.WriteData(a.Streams.Out, view)
	}
	a.notice("Key list %d is published: %s. From now on %d of %s sign.", view.Version, view.File, view.Threshold, listed(view.Keys))
	return nil
}
