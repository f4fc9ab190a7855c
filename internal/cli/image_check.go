package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/release"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageCheckOptions are what `image check` was asked for.
type imageCheckOptions struct {
	Address string // empty: the catalogue that images are launched from
	JSON    bool
}

// checkView is `image check --json`.
type checkView struct {
	Address string            `json:"manifest"`
	Release string            `json:"release"`
	Serial  int64             `json:"serial"`
	Signers []string          `json:"signers"`
	Expires time.Time         `json:"expires"`
	Expired bool              `json:"expired"`
	Files   []release.Checked `json:"files"`
}

func newImageCheck(app *App, run func(context.Context, *App, imageCheckOptions) error) *cobra.Command {
	o := imageCheckOptions{}
	cmd := &cobra.Command{
		Use:   "check [FLAGS] [ADDRESS]",
		Short: "Check that everything a manifest names is still published",
		Long: `Read every file that the manifest at ADDRESS names, at ADDRESS and at each mirror
that the manifest names, and compare it with its digest: archives, indexes, bills
of materials, build records. ADDRESS is a folder, a path, a URL or an oci://
reference; without it the catalogue is checked that images come from. The
manifest itself has to be signed by trusted keys and must not have expired.
Nothing is kept. Status 8 means that bytes are wrong or the manifest is not to be
believed, 3 that files are gone, 7 that a server does not answer; with --json the
files are listed then, too.`,
		Example: `  smolvm image check
  smolvm image check dist/images
  smolvm image check https://example.org/images/ --json | jq '.data.files[] | select(.right | not)'`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Address = args[0]
			}
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the manifest and an array of files")
	return cmd
}

func runImageCheck(ctx context.Context, app *App, o imageCheckOptions) error {
	found, err := app.freshCatalogue(ctx, o.Address)
	if err != nil {
		return err
	}
	files, err := release.Check(ctx, found, app.source(), app.releaseOptions())
	if err != nil {
		return err
	}
	m := found.Manifest
	view := checkView{fetch.Shown(found.Address), m.Release, m.Serial, found.Signers, m.Expires, found.Expired, files}
	wrong := view.wrong()
	switch {
	case o.JSON && wrong != nil:
		return withData(wrong, view)
	case o.JSON:
		return ui.WriteData(app.Streams.Out, view)
	case wrong != nil:
		return app.showWrong(view, wrong)
	}
	app.notice("Release %s (serial %d, expires %s) is complete: %d files are what its manifest names.",
		m.Release, m.Serial, m.Expires.UTC().Format(time.DateOnly), len(files))
	return nil
}

// freshCatalogue loads a manifest from where it is published: neither what was
// seen before nor a copy in the program nor a mirror of the user's stands in.
func (a *App) freshCatalogue(ctx context.Context, address string) (resolve.Catalogue, error) {
	if address == "" {
		c, err := a.Config()
		if err != nil {
			return resolve.Catalogue{}, err
		}
		address = resolve.Address(c)
	}
	if whole, err := resolve.Complete(address); err == nil {
		address = whole // keys are configured for the whole address
	}
	rules, err := a.rulesAt(address)
	if err != nil {
		return resolve.Catalogue{}, err
	}
	rules.Memory, rules.Carried, rules.Mirrors = nil, nil, nil
	return resolve.LoadCatalogue(ctx, a.source(), address, rules)
}

// wrong is the error where something is wrong; the worst code counts.
func (v checkView) wrong() error {
	var problems int
	code := fault.Code("")
	rank := map[fault.Code]int{"": 0, fault.Network: 1, fault.NotFound: 2, fault.Trust: 3}
	for _, f := range v.Files {
		if f.Right {
			continue
		}
		problems++
		if rank[f.Code] >= rank[code] {
			code = f.Code
		}
	}
	switch {
	case v.Expired:
		return fault.New(fault.Trust, "Publish it anew, or sign a newer one.", "check %s: its manifest has expired", v.Address)
	case problems == 0:
		return nil
	}
	return fault.New(code, "", "check %s: %d of %d files are not what the manifest names", v.Address, problems, len(v.Files))
}

// showWrong lists what is wrong.
func (a *App) showWrong(v checkView, wrong error) error {
	table := ui.NewTable("PLACE", "FILE", "PROBLEM")
	for _, f := range v.Files {
		if !f.Right {
			table.Add(f.Place, f.File, f.Problem)
		}
	}
	if err := a.table(table); err != nil {
		return fmt.Errorf("%w (and: %w)", wrong, err)
	}
	return wrong
}
