package imagebuild

import (
	"context"

	"github.com/smolvm/smolvm/internal/manifest"
)

// describe notes what an image takes and what is in it: it reads the layers, of
// which the cache keeps what was found.
func (b *Builder) describe(ctx context.Context, plan Plan, n int, image *Image) error {
	base, err := b.takeInventory(ctx, plan.Base, image.Base)
	if err != nil {
		return err
	}
	layer, err := b.takeInventory(ctx, plan.Layers[n], image.Layer)
	if err != nil {
		return err
	}
	for _, asset := range image.Kernel.Assets {
		image.Sizes = append(image.Sizes, sizeOf(asset, inventory{Allocated: asset.Content.Size}))
	}
	image.Sizes = append(image.Sizes, sizeOf(image.Base.Assets[0], base), sizeOf(image.Layer.Assets[0], layer))
	image.SBOM, err = billOf(*image, b.base, []inventory{base, layer})
	return err
}

func sizeOf(asset manifest.Asset, have inventory) Size {
	return Size{
		Name: asset.Name, Compressed: asset.Archive.Size, Expanded: asset.Content.Size,
		Allocated: have.Allocated, Free: have.Free,
	}
}
