package imagebuild

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/spdx"
)

const (
	spdxImageID = "SPDXRef-Image"
	// kernelLicense is that of Linux, as its COPYING says.
	kernelLicense = "GPL-2.0-only WITH Linux-syscall-note"
)

// bill writes the software bill of materials of one image. Equal images give
// equal bytes: there is neither a random number nor a clock in it.
type bill struct {
	document spdx.Document
	ids      map[string]int
	layers   []string // SPDX ids
}

// billOf lists everything in an image: the kernel, the layers, and their software.
func billOf(image Image, base Base, layers []inventory) ([]byte, error) {
	name := image.Preset.Name + "-" + image.Arch
	b := &bill{ids: map[string]int{}, document: spdx.Document{
		Version: spdx.Version, License: spdx.DataLicense, ID: spdx.DocumentID, Name: "smolvm-" + name,
		Namespace: "https://github.com/smolvm/smolvm/spdx/" + name + "-" + image.contentKey(),
		Creation: spdx.Creation{
			Created: time.Unix(base.Epoch, 0).UTC().Format(time.RFC3339), Creators: []string{"Tool: smolvm"},
		},
	}}
	b.add(spdx.DocumentID, "DESCRIBES", spdx.Package{
		ID: spdxImageID, Name: "smolvm-" + name, Version: image.Preset.Agent.Version, Purpose: "OPERATING-SYSTEM",
		Source: "agent: " + image.Preset.Agent.Name,
	}, stated{})
	b.addKernel(image.Kernel)
	for _, a := range []Archived{image.Base, image.Layer} {
		b.layers = append(b.layers, b.addFile("layer-"+a.Assets[0].Name, a.Assets[0], "FILE", stated{}))
	}
	b.addWheels(base, image.Arch)
	b.addSoftware(image, merged(layers), layers[0].System)
	b.addLicenses()
	raw, err := json.MarshalIndent(b.document, "", " ")
	if err == nil && len(raw) >= manifest.MaxDocument {
		err = fmt.Errorf("the list of %s's packages has %d bytes", name, len(raw))
	}
	return append(raw, '\n'), err
}

// contentKey names the image's bytes.
func (i Image) contentKey() string {
	var digests []string
	for _, a := range []Archived{i.Kernel, i.Base, i.Layer} {
		for _, asset := range a.Assets {
			digests = append(digests, asset.Content.SHA256)
		}
	}
	return contentKey(digests)
}

// add appends a package and says what has it.
func (b *bill) add(owner, relation string, p spdx.Package, license stated) {
	p.Location, p.Concluded, p.Copyright = spdx.Unknown, spdx.Unknown, spdx.Unknown
	if p.Declared = license.Expression; p.Declared == "" {
		p.Declared = spdx.Unknown
	}
	if license.Text != "" {
		p.LicenseText = "The package says: " + license.Text
	}
	b.document.Packages = append(b.document.Packages, p)
	b.document.Relationships = append(b.document.Relationships, spdx.Relationship{From: owner, Type: relation, To: p.ID})
}

// id is a name within the document, of letters, digits, dots and dashes.
func (b *bill) id(words ...string) string {
	text := "SPDXRef-" + strings.Map(func(r rune) rune {
		if letterOrDigit(r) || r == '.' {
			return r
		}
		return '-'
	}, strings.Join(words, "-"))
	b.ids[text]++
	if n := b.ids[text]; n > 1 {
		return b.id(append(slices.Clone(words), fmt.Sprint(n))...)
	}
	return text
}

// addFile adds a published file by the digest of what it expands to.
func (b *bill) addFile(name string, asset manifest.Asset, purpose string, license stated) string {
	id := b.id(name)
	b.add(spdxImageID, "CONTAINS", spdx.Package{
		ID: id, Name: asset.Name, Purpose: purpose, Checksums: spdx.Digest(asset.Content.SHA256),
		Source: "published as " + asset.Archive.File,
	}, license)
	return id
}

// addKernel adds the kernel's image and modules, and the packages they are from.
func (b *bill) addKernel(a Archived) {
	var ids []string
	for _, asset := range a.Assets {
		ids = append(ids, b.addFile(asset.Name, asset, "OPERATING-SYSTEM", stated{Expression: kernelLicense}))
		b.last().Version = a.Record.Version
	}
	for _, in := range a.Record.Inputs {
		p := spdx.Package{ID: b.id("kernel-source", in.Name), Name: in.Name, Version: in.Version, Checksums: spdx.Digest(in.SHA256)}
		b.add(ids[0], "GENERATED_FROM", p, stated{Expression: kernelLicense})
	}
}

func (b *bill) last() *spdx.Package { return &b.document.Packages[len(b.document.Packages)-1] }

// addWheels adds the programs that the base takes out of Python wheels, of which
// no file in the image tells.
func (b *bill) addWheels(base Base, arch string) {
	for _, w := range base.Wheels {
		s := software{Kind: kindPyPI, Name: pythonName(w.Name), Version: w.Version}
		b.add(b.layers[0], "CONTAINS", spdx.Package{
			ID: b.id(s.Kind, s.Name, s.Version), Name: w.Name, Version: w.Version, References: spdx.PackageURL(s.purl("")),
			Checksums: spdx.Digest(w.Platforms[arch].SHA256),
		}, state(w.License))
	}
}

// addSoftware adds the packages, with the digest of what was installed where the
// build record has it.
func (b *bill) addSoftware(image Image, all []layered, system string) {
	digests := map[[2]string]string{}
	for _, in := range image.Base.Record.Inputs {
		digests[[2]string{in.Name, in.Version}] = in.SHA256
	}
	for _, s := range all {
		p := spdx.Package{ID: b.id(s.Kind, s.Name, s.Version), Name: s.Name, Version: s.Version, References: spdx.PackageURL(s.purl(system))}
		if s.Path != "" {
			p.Source = "found in " + s.Path
		}
		if digest := digests[[2]string{s.Name, s.Version}]; s.Kind == kindDeb && digest != "" {
			p.Checksums = spdx.Digest(digest)
		}
		b.add(b.layers[s.layer], "CONTAINS", p, s.License)
	}
}

// addLicenses says where the text is of licences that SPDX does not have.
func (b *bill) addLicenses() {
	seen := map[string]bool{}
	for _, p := range b.document.Packages {
		for _, id := range regexp.MustCompile(refMark+`[A-Za-z0-9.-]+`).FindAllString(p.Declared, -1) {
			if seen[id] {
				continue
			}
			seen[id] = true
			b.document.Licenses = append(b.document.Licenses, spdx.License{
				ID: id, Text: "Its text is in the image, in /usr/share/doc/" + p.Name + "/copyright.",
			})
		}
	}
	slices.SortFunc(b.document.Licenses, func(x, y spdx.License) int { return strings.Compare(x.ID, y.ID) })
}
