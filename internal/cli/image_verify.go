package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/acquire"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageVerifyOptions are what `image verify` was asked for.
type imageVerifyOptions struct {
	Images []string // none: all in the cache
	JSON   bool
}

// verifiedView is what reading one file again has shown, in JSON.
type verifiedView struct {
	Name    string   `json:"name"`
	Path    string   `json:"path"`
	Images  []string `json:"images"` // RELEASE/PRESET-ARCH-VMM
	Size    int64    `json:"size_bytes"`
	Frames  int      `json:"frames"`
	Bad     []int    `json:"bad_frames"` // numbers, from 0
	Right   bool     `json:"right"`
	Sound   bool     `json:"sound"`   // the file itself is right and boots
	Problem string   `json:"problem"` // empty where it is right
}

func newImageVerify(app *App, run func(context.Context, *App, imageVerifyOptions) error) *cobra.Command {
	o := imageVerifyOptions{}
	cmd := &cobra.Command{
		Use:   "verify [IMAGE...]",
		Short: "Read images in the cache again and compare every byte",
		Long: `Read images in the cache again, all of them where none is named, and compare every
byte with what the signed manifest said when they were fetched: frames, whole
files, archives that were kept. Status 8 means that something is wrong; with
--json the data is there then, too. Nothing that is wrong is booted, and the next
pull or start downloads just the frames that are wrong. A published folder, or any
other address, is verified by 'smolvm image check'.

` + imageSyntax,
		Example: `  smolvm image verify
  smolvm image verify claude --json`,
		ValidArgsFunction: app.completeCached,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Images = args
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "an array of files with the frames that are wrong")
	return cmd
}

func runImageVerify(ctx context.Context, app *App, o imageVerifyOptions) error {
	images, err := app.pickCached(o.Images)
	if err != nil {
		return err
	}
	defer app.whenInterrupted(ctx, "Nothing was changed: verify again.")()
	reports, err := app.Verify(ctx, images)
	if err != nil {
		return err
	}
	views := make([]verifiedView, 0, len(reports))
	for _, report := range reports {
		views = append(views, verifiedOf(report, images))
	}
	wrong := notRight(views, images, app.repairOf)
	if o.JSON {
		if wrong != nil {
			return withData(wrong, views)
		}
		return ui.WriteData(app.Streams.Out, views)
	}
	if len(views) == 0 {
		app.Streams.Say("No images are in the cache.")
		return nil
	}
	return errors.Join(app.table(verifiedTable(views)), wrong)
}

func verifiedOf(r acquire.Report, images []store.Image) verifiedView {
	v := verifiedView{
		Name: r.Name, Path: r.Path, Size: r.Size, Frames: r.Frames, Bad: r.Bad,
		Right: r.Fault == "", Sound: r.Sound || r.Fault == "", Problem: r.Fault, Images: []string{},
	}
	if v.Bad == nil {
		v.Bad = []int{}
	}
	for _, image := range images {
		if slices.Contains(r.Images, image.Path) {
			v.Images = append(v.Images, imageName(image.View))
		}
	}
	return v
}

func verifiedTable(views []verifiedView) *ui.Table {
	table := ui.NewTable("FILE", "SIZE", "FRAMES", "RESULT")
	for _, v := range views {
		result := "right"
		if !v.Right {
			result = v.Problem + framesText(v.Bad)
		}
		table.Add(v.Name, ui.Bytes(v.Size), fmt.Sprint(v.Frames), result)
	}
	return table
}

// maxNamedFrames bounds how many frames a message names.
const maxNamedFrames = 12

// framesText names wrong frames, and none where there are none.
func framesText(bad []int) string {
	if len(bad) == 0 {
		return ""
	}
	var numbers []string
	for _, n := range bad[:min(len(bad), maxNamedFrames)] {
		numbers = append(numbers, fmt.Sprint(n))
	}
	text := ": " + strings.Join(numbers, ", ")
	if more := len(bad) - maxNamedFrames; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// notRight is the error where something is wrong, with the command that repairs it.
func notRight(views []verifiedView, images []store.Image, repairOf func(store.Image) string) error {
	var files, hurt []string
	boots := "" // what is wrong may be beside the files that are booted
	for _, v := range views {
		if v.Right {
			continue
		}
		if !v.Sound {
			boots = "Nothing of it boots. "
		}
		files = append(files, v.Name+" in "+filepath.Dir(v.Path))
		for _, name := range v.Images {
			if !slices.Contains(hurt, name) {
				hurt = append(hurt, name)
			}
		}
	}
	if len(files) == 0 {
		return nil
	}
	var repairs []string
	for _, image := range images {
		repair := repairOf(image)
		if slices.Contains(hurt, imageName(image.View)) && !slices.Contains(repairs, repair) {
			repairs = append(repairs, repair)
		}
	}
	return fault.New(fault.Trust, boots+"Repair it: "+strings.Join(repairs, "; "),
		"verify %s: %d of %d files are not what was verified: %s",
		strings.Join(hurt, ", "), len(files), len(views), strings.Join(files, ", "))
}

// repairOf is the command that gets an image right again: a pull from the catalogue
// that offers its release, or where none does, its removal.
func (a *App) repairOf(image store.Image) string {
	pull := fmt.Sprintf("smolvm image pull --arch %s", image.Arch)
	addresses, known := a.offering(image)
	switch {
	case !known: // no catalogue is remembered: the next pull says
		return pull + " " + image.Preset
	case len(addresses) == 0:
		return "smolvm image rm " + imageName(image.View)
	}
	for _, address := range addresses {
		if a.manifestFlag(address) == "" {
			return pull + " " + image.Preset
		}
	}
	return pull + a.manifestFlag(addresses[0]) + " " + image.Preset
}

// offering are the addresses of the remembered catalogues that have an image, and
// whether any catalogue is remembered.
func (a *App) offering(image store.Image) (addresses []string, known bool) {
	c, err := a.Config()
	if err != nil {
		return nil, false
	}
	documents, _ := trust.NewMemory(filepath.Join(c.Home, "trust"), a.Now).Documents() // only for a hint
	for _, document := range documents {
		m, err := manifest.Parse(document.Raw)
		if err != nil {
			continue
		}
		known = true
		if _, there := (resolve.Catalogue{Manifest: m}).Find(image.Preset, image.Arch, image.VMM); there && m.Release == image.Release {
			addresses = append(addresses, document.Address)
		}
	}
	return addresses, known
}

// verify reads images of the cache again.
func (a *App) verify(ctx context.Context, images []store.Image) ([]acquire.Report, error) {
	cache, err := a.openStore()
	if err != nil {
		return nil, err
	}
	return acquire.New(cache, nil, a.Progress(), a.Now).Verify(ctx, images)
}
