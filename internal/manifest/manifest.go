// Package manifest is the catalogue's document: which bytes make up the image of
// a (preset, architecture, VMM), with the digest and size of every one of them.
//
// Input is JSON that a trusted key has signed (the trust room checks that);
// output is a value whose every field has been checked. Nothing is kept on disk.
package manifest

import "time"

// Schema is the version of the document this program reads and writes.
const Schema = 1

// Manifest is the whole document.
type Manifest struct {
	Schema     int       `json:"schema"`
	Release    string    `json:"release"` // names the folder under images/
	Serial     int64     `json:"serial"`  // only rises within a catalogue
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
	MinVersion string    `json:"min_version"` // oldest smolvm that may use it
	// Mirrors are folders that hold the same files, asked after the address that
	// the user named: http, https or oci.
	Mirrors []string `json:"mirrors,omitempty"`
	Rows    []Row    `json:"rows"`
}

// Row is the image of one (preset, arch, vmm).
type Row struct {
	Preset    string    `json:"preset"`
	Arch      string    `json:"arch"` // amd64, arm64
	VMM       string    `json:"vmm"`  // qemu, firecracker
	Agent     Agent     `json:"agent"`
	Kernel    Kernel    `json:"kernel"`
	Layers    []Asset   `json:"layers"` // from the bottom: base first
	Resources Resources `json:"resources"`
	// SBOM lists the packages in the image and their licences, as SPDX 2.3 in JSON;
	// Build says what the image was made from. A launch fetches neither. Nil: none
	// was published.
	SBOM  *Blob `json:"sbom,omitempty"`
	Build *Blob `json:"build,omitempty"`
}

// Assets are what a launch needs, in the order of a boot: the kernel, its modules
// where it has any, the layers from the bottom.
func (r Row) Assets() []Asset {
	assets := []Asset{r.Kernel.Image}
	if r.Kernel.Modules != nil {
		assets = append(assets, *r.Kernel.Modules)
	}
	return append(assets, r.Layers...)
}

// Documents are the files that describe the image and that a launch does not
// need, those there are.
func (r Row) Documents() []Blob {
	var documents []Blob
	for _, blob := range []*Blob{r.SBOM, r.Build} {
		if blob != nil {
			documents = append(documents, *blob)
		}
	}
	return documents
}

// Agent is what the preset's top layer installs.
type Agent struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Resources are the row's defaults.
type Resources struct {
	CPUs      int   `json:"cpus"`       // 0: up to the host
	MemoryMiB int64 `json:"memory_mib"` // MiB
	DiskMiB   int64 `json:"disk_mib"`   // MiB
}

// Kernel is what boots: an image, the modules it needs (none for our own
// kernel), and the part of the command line that does not depend on the VMM.
type Kernel struct {
	Version     string `json:"version"`            // uname -r
	StandIn     string `json:"stand_in,omitempty"` // whose kernel stands in for ours; empty: ours
	Source      string `json:"source,omitempty"`   // what ours was built from
	Image       Asset  `json:"image"`
	Modules     *Asset `json:"modules,omitempty"` // a cpio archive, see wire.ModuleFolder
	CommandLine string `json:"command_line"`
}

// Asset is one published file: a .zst of independent frames, the index of its
// frames, and the file it expands to.
type Asset struct {
	Name    string `json:"name"` // base, claude-code, kernel, modules
	Archive Blob   `json:"archive"`
	Index   Blob   `json:"index"`
	Content Digest `json:"content"` // of the expanded file
}

// Blob is a published file by name and digest. The name is relative to the
// manifest's own address, holds the digest, and has no directory part.
type Blob struct {
	File string `json:"file"`
	Digest
}

// Digest identifies bytes.
type Digest struct {
	SHA256 string `json:"sha256"` // lower-case hexadecimal, 64 characters
	Size   int64  `json:"size"`   // bytes
}
