package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/ui"
)

// imageInspectOptions are what `image inspect` was asked for.
type imageInspectOptions struct {
	Images []string // none: all that the catalogue has
	JSON   bool
}

// inspection is `image inspect --json`.
type inspection struct {
	Catalogue *catalogueView `json:"catalogue"` // null where it could not be read
	Images    []imageView    `json:"images"`
}

// catalogueView is a catalogue and why it is believed, in JSON.
type catalogueView struct {
	Address    string    `json:"manifest"`
	Places     []string  `json:"places"` // where its files are asked for, in this order
	Release    string    `json:"release"`
	Serial     int64     `json:"serial"`
	Signers    []string  `json:"signers"`  // ids of the trusted keys that signed it
	KeyList    int       `json:"key_list"` // version of the key list they are from; 0: given by hand or built in
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	Expired    bool      `json:"expired"`
	Remembered bool      `json:"remembered"` // no place answered: the manifest seen last
	MinVersion string    `json:"min_version"`
}

// imageView is an image and what of it is here, in JSON.
type imageView struct {
	Name     string      `json:"name"` // RELEASE/PRESET-ARCH-VMM
	Preset   string      `json:"preset"`
	Arch     string      `json:"arch"`
	VMM      string      `json:"vmm"`
	Release  string      `json:"release"`
	Agent    *agentView  `json:"agent"`  // null where only the cache knows the image
	Kernel   *kernelView `json:"kernel"` // as above
	Path     string      `json:"path"`   // folder in the cache; empty: not complete there
	Download int64       `json:"download_bytes"`
	Missing  int64       `json:"missing_bytes"` // of the download
	Size     int64       `json:"size_bytes"`
	Assets   []assetView `json:"assets"` // kernel, modules, layers from the bottom
	SBOM     *blobView   `json:"sbom"`   // the bill of materials, published beside the image; null: none
	Build    *blobView   `json:"build"`  // what the image was made from; null: not published
}

// assetView is one file of an image, in JSON.
type assetView struct {
	Role      string      `json:"role"` // empty where only the cache knows the image
	Name      string      `json:"name"`
	State     store.State `json:"state"`
	Path      string      `json:"path"` // empty: not here
	Allocated int64       `json:"allocated_bytes"`
	Missing   int64       `json:"missing_bytes"`
	Partial   int64       `json:"partial_bytes"` // expanded, left by an interrupted download; about
	Archive   blobView    `json:"archive"`
	Index     blobView    `json:"index"`
	Content   blobView    `json:"content"`
}

// blobView is a file by name and digest, in JSON.
type blobView struct {
	File   string `json:"file,omitempty"` // published name
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // 0: unknown
	Path   string `json:"path,omitempty"`
}

func newImageInspect(app *App, run func(context.Context, *App, imageInspectOptions) error) *cobra.Command {
	o := imageInspectOptions{}
	cmd := &cobra.Command{
		Use:   "inspect [IMAGE...]",
		Short: "Show who signed images, their digests, and what of them is here",
		Long: `Show the catalogue (who signed it, its serial, age and places) and its images:
versions, digests, sizes, and what of them is in the cache. Nothing of an image
is downloaded.

An IMAGE is a preset, or one image as RELEASE/PRESET-ARCH-VMM, with or without
RELEASE/; images of other releases are shown as far as the cache knows them.`,
		Example: `  smolvm image inspect
  smolvm image inspect claude
  smolvm image inspect --json claude | jq '.data.catalogue.signers'`,
		ValidArgsFunction: app.completeCached,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Images = args
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the catalogue and an array of images")
	return cmd
}

func runImageInspect(ctx context.Context, app *App, o imageInspectOptions) error {
	view, err := app.inspect(ctx, o.Images)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, view)
	}
	_, err = fmt.Fprint(app.Streams.Out, view.text(app.sheet(), app.Now()))
	return err
}

// inspect looks in the catalogue first and then in the cache, which may know
// images of releases that the catalogue has no more. Without a catalogue the
// cache alone answers, if it can.
func (a *App) inspect(ctx context.Context, words []string) (inspection, error) {
	view := inspection{Images: []imageView{}}
	found, wrong := a.Catalogue(ctx)
	if wrong == nil {
		shown := catalogueOf(found)
		view.Catalogue = &shown
	}
	if len(words) == 0 {
		words = []string{""}
	}
	for _, word := range words {
		images, err := a.inspectOne(ctx, found, word)
		if err != nil && wrong != nil {
			return view, wrong // it would have been found in the catalogue
		}
		if err != nil {
			return view, err
		}
		view.Images = append(view.Images, images...)
	}
	if wrong != nil {
		a.warn("the cache alone answers, because of the catalogue: %v", wrong)
	}
	return view, nil
}

// inspectOne gives the images that a word names; all of the catalogue for none.
func (a *App) inspectOne(ctx context.Context, found resolve.Catalogue, word string) ([]imageView, error) {
	var images []imageView
	shown := map[string]bool{}
	for _, row := range a.namedRows(found, word) {
		image, err := a.imageOf(ctx, found.Manifest.Release, row)
		if err != nil {
			return nil, err
		}
		shown[image.Name] = true
		images = append(images, image)
	}
	if word == "" && found.Address != "" {
		return images, nil
	}
	cached, err := a.Cached()
	if err != nil {
		return nil, err
	}
	if word != "" {
		cached = a.named(word, cached)
	}
	for _, image := range cached {
		if !shown[imageName(image.View)] {
			images = append(images, cachedView(image))
		}
	}
	if len(images) == 0 {
		return nil, a.notFound(word, found)
	}
	return images, nil
}

// namedRows are the catalogue's rows that a word names.
func (a *App) namedRows(found resolve.Catalogue, word string) []manifest.Row {
	views := make([]store.Image, len(found.Manifest.Rows))
	for i, row := range found.Manifest.Rows {
		views[i].View = store.View{Release: found.Manifest.Release, Preset: row.Preset, Arch: row.Arch, VMM: row.VMM}
	}
	if word != "" {
		views = a.named(word, views)
	}
	var rows []manifest.Row
	for _, v := range views {
		if row, there := found.Find(v.Preset, v.Arch, v.VMM); there {
			rows = append(rows, row)
		}
	}
	return rows
}

// imageOf looks up what is here of a row's image.
func (a *App) imageOf(ctx context.Context, release string, row manifest.Row) (imageView, error) {
	folder := store.View{Release: release, Preset: row.Preset, Arch: row.Arch, VMM: row.VMM}
	v := imageView{
		Name: imageName(folder), Preset: row.Preset, Arch: row.Arch, VMM: row.VMM, Release: release,
		Agent:  &agentView{row.Agent.Name, row.Agent.Version},
		Kernel: &kernelView{row.Kernel.Version, row.Kernel.StandIn},
		Path:   a.cachedPath(imageName(folder)), Assets: []assetView{},
		SBOM: documentOf(row.SBOM), Build: documentOf(row.Build),
	}
	for _, part := range parts(row) {
		object, err := a.Lookup(ctx, part.Index.SHA256)
		if err != nil {
			return v, err
		}
		asset := assetOf(part, object)
		v.Assets = append(v.Assets, asset)
		v.Download += asset.Archive.Size
		v.Missing += asset.Missing
		v.Size += asset.Content.Size
	}
	return v, nil
}

// documentOf is a file that describes an image.
func documentOf(b *manifest.Blob) *blobView {
	if b == nil {
		return nil
	}
	return &blobView{File: b.File, SHA256: b.SHA256, Size: b.Size}
}

// cachedPath is the folder of an image in the cache.
func (a *App) cachedPath(name string) string {
	all, _ := a.Cached() // without the listing there is no folder to show
	for _, i := range all {
		if imageName(i.View) == name {
			return i.Path
		}
	}
	return ""
}

// part is an asset and what it is for.
type part struct {
	role resolve.Role
	manifest.Asset
}

// parts are the assets of an image in the order of a boot.
func parts(row manifest.Row) []part {
	all := []part{{resolve.Kernel, row.Kernel.Image}}
	if row.Kernel.Modules != nil {
		all = append(all, part{resolve.Modules, *row.Kernel.Modules})
	}
	for _, layer := range row.Layers {
		all = append(all, part{resolve.Layer, layer})
	}
	return all
}

func assetOf(p part, object store.Object) assetView {
	v := assetView{
		Role: string(p.role), Name: p.Name, State: object.State, Allocated: object.Allocated,
		Archive: blobView{File: p.Archive.File, SHA256: p.Archive.SHA256, Size: p.Archive.Size},
		Index:   blobView{File: p.Index.File, SHA256: p.Index.SHA256, Size: p.Index.Size},
		Content: blobView{SHA256: p.Content.SHA256, Size: p.Content.Size},
	}
	if object.State == store.Absent {
		v.Missing, v.Partial = p.Archive.Size, object.Partial
		return v
	}
	v.Path, v.Archive.Path = object.Path, object.Archive
	return v
}

// cachedView is all that the cache knows of an image.
func cachedView(i store.Image) imageView {
	v := imageView{
		Name: imageName(i.View), Preset: i.Preset, Arch: i.Arch, VMM: i.VMM, Release: i.Release,
		Path: i.Path, Size: i.Size, Assets: []assetView{},
	}
	for n, file := range i.Files {
		asset := assetView{
			Name: file.Name, Archive: blobView{SHA256: file.Archive}, Index: blobView{SHA256: file.Key},
		}
		if n < len(i.Assets) {
			known := i.Assets[n]
			asset.State, asset.Allocated = known.State, known.Allocated
			asset.Content = blobView{SHA256: known.SHA256, Size: known.Size}
		}
		v.Assets = append(v.Assets, asset)
	}
	return v
}

func catalogueOf(c resolve.Catalogue) catalogueView {
	m := c.Manifest
	v := catalogueView{
		Address: fetch.Shown(c.Address), Places: []string{}, Release: m.Release, Serial: m.Serial,
		Signers: c.Signers, KeyList: c.Root.Version,
		Created: m.Created, Expires: m.Expires, Expired: c.Expired, Remembered: c.Remembered, MinVersion: m.MinVersion,
	}
	for _, place := range c.Places {
		v.Places = append(v.Places, fetch.Shown(place))
	}
	return v
}

// notFound says what could have been meant.
func (a *App) notFound(word string, found resolve.Catalogue) error {
	var all []store.Image
	for _, row := range found.Manifest.Rows {
		all = append(all, store.Image{View: store.View{
			Release: found.Manifest.Release, Preset: row.Preset, Arch: row.Arch, VMM: row.VMM,
		}})
	}
	cached, _ := a.Cached() // its names are only offered
	return a.notNamed(word, append(all, cached...))
}
