package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fsimg/ext4"
	"github.com/smolvm/smolvm/internal/unpack"
)

// inventoryFormat is part of the key under which an inventory is kept: raise it
// when one says more than before.
const inventoryFormat = 2

// Bounds of what is read out of a layer, in bytes.
const (
	maxStatus   = 64 << 20 // dpkg's database
	maxMetadata = 4 << 20  // what one package says of itself
)

// inventory is what one layer holds. It is read from the layer's own file system,
// so that it is true whatever the recipe did.
type inventory struct {
	Allocated int64             `json:"allocated"` // bytes of blocks that are not zero
	Free      int64             `json:"free"`      // bytes of blocks that no file has
	Files     int64             `json:"files"`
	System    string            `json:"system,omitempty"`  // ID of os-release
	Status    bool              `json:"status"`            // there is a dpkg database
	Debs      []software        `json:"debs,omitempty"`    // what it says
	Found     []software        `json:"found,omitempty"`   // npm and Python packages
	Licenses  map[string]stated `json:"licenses"`          // of Debian packages, by name
	Hidden    []string          `json:"hidden,omitempty"`  // names the layers below do not show
	Emptied   []string          `json:"emptied,omitempty"` // directories of which the layers below show nothing
}

// software is one installed package.
type software struct {
	Kind    string `json:"kind"` // deb, npm, pypi
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch,omitempty"`
	Source  string `json:"source,omitempty"` // of a deb: the source package, where it has another name
	Path    string `json:"path,omitempty"`   // where it was found
	License stated `json:"license"`
}

// takeInventory reads what is in the layer of a step's archive, once.
func (b *Builder) takeInventory(ctx context.Context, s Step, a Archived) (inventory, error) {
	asset := a.Assets[0]
	key := contentKey([]any{inventoryFormat, asset.Content.SHA256})
	file := filepath.Join(b.cache.path(kindInventory, key), kindInventory+".json")
	var have inventory
	if raw, err := os.ReadFile(file); err == nil && json.Unmarshal(raw, &have) == nil {
		return have, nil
	}
	done := event.Span(b.sink, b.now, event.Verify, "what is in "+asset.Name)
	image, err := b.expanded(ctx, s, a)
	if err != nil {
		return have, fmt.Errorf("read what is in %s: %w", asset.Name, err)
	}
	defer image.Close()
	if have, err = readInventory(image); err != nil {
		return have, fmt.Errorf("read what is in %s: %w", asset.Name, err)
	}
	done(have.Allocated)
	return have, b.keepInventory(key, have)
}

const kindInventory = "inventory"

func (b *Builder) keepInventory(key string, have inventory) error {
	raw, err := json.Marshal(have)
	if err != nil {
		return err
	}
	work, err := b.cache.work(kindInventory)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, kindInventory+".json"), raw, 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(b.cache.path(kindInventory, key)); err != nil { // one that cannot be read
		return err
	}
	return b.cache.commit(work, kindInventory, key)
}

// expanded opens a layer's file system: the one in the cache, or the archive's.
func (b *Builder) expanded(ctx context.Context, s Step, a Archived) (*os.File, error) {
	image, err := os.Open(filepath.Join(b.cache.path(s.Kind, s.Key), contentFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return image, err
	}
	return b.expand(ctx, a)
}

// expand opens what the first asset of an archive expands to.
func (b *Builder) expand(ctx context.Context, a Archived) (*os.File, error) {
	asset := a.Assets[0]
	raw, err := os.ReadFile(filepath.Join(a.Dir, asset.Index.File))
	if err != nil {
		return nil, err
	}
	index, err := unpack.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	archive, err := os.Open(filepath.Join(a.Dir, asset.Archive.File))
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	work, err := b.cache.work(kindInventory)
	if err != nil {
		return nil, err
	}
	image, err := os.Create(filepath.Join(work, contentFile))
	if err != nil {
		return nil, err
	}
	// Nobody needs the name: the bytes go with the last who has the file open.
	if err := errors.Join(unpack.Expand(ctx, archive, index, image, nil), os.RemoveAll(work)); err != nil {
		image.Close()
		return nil, err
	}
	return image, nil
}

// readInventory reads a layer's file system.
func readInventory(image *os.File) (inventory, error) {
	files, err := ext4.Open(image)
	if err != nil {
		return inventory{}, err
	}
	r := &stocktaker{files: files, inventory: inventory{Free: files.Usage().Free, Licenses: map[string]stated{}}}
	if r.Allocated, err = allocated(image); err != nil {
		return r.inventory, err
	}
	if err := files.Walk(r.visit); err != nil {
		return r.inventory, err
	}
	return r.inventory, r.readDebs()
}

// allocated counts the bytes of the blocks that an expanded file needs.
func allocated(image *os.File) (total int64, err error) {
	const block = 4 << 10
	buffer, zeros := make([]byte, 1<<20), make([]byte, block)
	for at := int64(0); ; {
		n, err := image.ReadAt(buffer, at)
		for piece := range slices.Chunk(buffer[:n], block) {
			if !bytes.Equal(piece, zeros[:len(piece)]) {
				total += int64(len(piece))
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// stocktaker collects an inventory.
type stocktaker struct {
	files *ext4.FS
	inventory
}

// visit looks at one name.
func (r *stocktaker) visit(e ext4.Entry) error {
	r.Files++
	switch {
	case e.Whiteout:
		r.Hidden = append(r.Hidden, e.Name)
		return nil
	case e.Opaque:
		r.Emptied = append(r.Emptied, e.Name)
		return nil
	}
	if doc, ok := strings.CutPrefix(path.Dir(e.Name), "usr/share/doc/"); ok && path.Base(e.Name) == "copyright" {
		return r.readCopyright(doc, e.Name)
	}
	if doc, ok := strings.CutPrefix(e.Name, "usr/share/doc/"); ok && e.Mode&fs.ModeSymlink != 0 && !strings.Contains(doc, "/") {
		return r.readCopyright(doc, e.Name+"/copyright")
	}
	read := metadataReader(e)
	if read == nil {
		return nil
	}
	raw, err := r.files.ReadFile(e.Name, maxMetadata)
	if err != nil {
		return onlyDamage(err) // it leads elsewhere, or is too large to be one
	}
	if found, ok := read(raw); ok {
		found.Path = e.Name
		r.Found = append(r.Found, found)
	}
	return nil
}

// readCopyright notes the licences of a Debian package.
func (r *stocktaker) readCopyright(name, file string) error {
	raw, err := r.files.ReadFile(file, maxMetadata)
	if err != nil {
		return onlyDamage(err) // a link into a layer below
	}
	r.Licenses[name] = debianLicense(raw)
	return nil
}

// onlyDamage passes an error on that means that the file system is damaged.
func onlyDamage(err error) error {
	if errors.Is(err, ext4.ErrFormat) {
		return err
	}
	return nil
}

// readDebs reads dpkg's database, where there is one.
func (r *stocktaker) readDebs() error {
	if raw, err := r.files.ReadFile("usr/lib/os-release", maxMetadata); err == nil {
		r.System = osRelease(raw)
	}
	raw, err := r.files.ReadFile("var/lib/dpkg/status", maxStatus)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.Status, r.Debs = err == nil, installedDebs(raw)
	return err
}

// layered is an image's software, from the bottom.
type layered struct {
	software
	layer int
}

// merged is what a sandbox sees of layers that lie on each other.
func merged(layers []inventory) []layered {
	var all []layered
	for i, layer := range layers {
		all = slices.DeleteFunc(all, func(s layered) bool { return layer.hides(s.software) })
		for _, found := range layer.Found {
			all = append(all, layered{found, i})
		}
		for _, deb := range layer.Debs {
			below := slices.IndexFunc(layers[:i], func(l inventory) bool { return l.has(deb) })
			if below >= 0 {
				all = append(all, layered{deb, below})
			} else {
				all = append(all, layered{deb, i})
			}
		}
	}
	for i := range all {
		if all[i].Kind == kindDeb {
			all[i].License = licenseIn(layers, all[i].software)
		}
	}
	slices.SortFunc(all, func(a, b layered) int { return compareSoftware(a.software, b.software) })
	return slices.CompactFunc(all, func(a, b layered) bool { return a.purl("") == b.purl("") })
}

// hides reports whether the layer takes something of a lower layer away.
func (l inventory) hides(s software) bool {
	if s.Kind == kindDeb {
		return l.Status // a database of its own names all that is left
	}
	within := func(dir string) bool { return strings.HasPrefix(s.Path, dir+"/") }
	return slices.ContainsFunc(l.Emptied, within) ||
		slices.ContainsFunc(l.Hidden, func(name string) bool { return name == s.Path || within(name) }) ||
		slices.ContainsFunc(l.Found, func(other software) bool { return other.Path == s.Path })
}

func (l inventory) has(deb software) bool {
	return slices.ContainsFunc(l.Debs, func(d software) bool {
		return d.Name == deb.Name && d.Version == deb.Version && d.Arch == deb.Arch
	})
}

// licenseIn is what the highest layer says of a Debian package. One without a
// copyright file shares it with another package of the same source: its link to
// that one is among what no layer holds.
func licenseIn(layers []inventory, deb software) stated {
	for _, layer := range slices.Backward(layers) {
		if license, ok := layer.Licenses[deb.Name]; ok {
			return license
		}
	}
	for _, layer := range slices.Backward(layers) {
		for _, other := range layer.Debs {
			if license, ok := layer.Licenses[other.Name]; ok && other.source() == deb.source() {
				return license
			}
		}
	}
	return stated{}
}

// source is the name of a deb's source package.
func (s software) source() string { return cmp.Or(s.Source, s.Name) }
