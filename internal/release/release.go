// Package release moves whole images and whole releases: Save writes images that
// are here into one tar, Load takes such a tar in on a computer without a network,
// and Mirror copies everything that a manifest names to a folder or a registry.
//
// Input is a catalogue that was believed (resolve), the store, and published
// places; output is a tar, objects and views in the store, or files that another
// computer can use as a catalogue. No byte goes in or out that was not compared
// with the signed manifest. A tar and every mirrored file get their names when
// they are complete and on disk, a mirror's manifest last of all. A crash leaves
// partial files that the next run continues (a mirror's FILE.part, the store's
// partials) or a temporary file beside the tar.
package release

import (
	"cmp"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/resolve"
)

// Image names a row of a manifest.
type Image struct {
	Preset string `json:"preset"`
	Arch   string `json:"arch"`
	VMM    string `json:"vmm"`
}

// String is the name of the image's folder in the store.
func (i Image) String() string { return i.Preset + "-" + i.Arch + "-" + i.VMM }

// Options are what every operation reports to.
type Options struct {
	Sink event.Sink // nil: nobody
	Now  func() time.Time
}

func (o Options) sink() event.Sink {
	if o.Sink == nil {
		return event.Discard{}
	}
	return o.Sink
}

// mayFetch refuses to bring or hand on anything by an expired manifest, as a
// launch does.
func mayFetch(c resolve.Catalogue) error {
	return resolve.Plan{Address: fetch.Shown(c.Address), Expired: c.Expired, Expires: c.Manifest.Expires}.MayFetch()
}

// sorted are the images in the order of a tar, each once.
func sorted(images []Image) []Image {
	images = slices.Clone(images)
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Preset, b.Preset), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.VMM, b.VMM))
	})
	return slices.Compact(images)
}

// rowsOf finds the rows of images.
func rowsOf(c resolve.Catalogue, images []Image) ([]manifest.Row, error) {
	rows := make([]manifest.Row, 0, len(images))
	for _, image := range images {
		row, ok := c.Find(image.Preset, image.Arch, image.VMM)
		if !ok {
			return nil, fault.New(fault.NotFound, "`smolvm image list --available` shows what the catalogue has.",
				"release %s has no image %s for %s under %s", c.Manifest.Release, image.Preset, image.Arch, image.VMM)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// assetsOf are the assets of rows in their order, each once.
func assetsOf(rows []manifest.Row) []manifest.Asset {
	var assets []manifest.Asset
	seen := map[string]bool{}
	for _, row := range rows {
		for _, asset := range row.Assets() {
			if !seen[asset.Index.SHA256] {
				seen[asset.Index.SHA256] = true
				assets = append(assets, asset)
			}
		}
	}
	return assets
}
