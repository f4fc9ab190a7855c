package manifest

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of values. They are far above what is published and far below what
// could make a reader reserve absurd amounts of memory or disk.
const (
	maxRows    = 4096
	maxLayers  = 16
	maxName    = 63
	maxFile    = 200
	maxText    = 200
	maxCommand = 1024
	maxBlob    = 256 << 30 // bytes, archive or expanded file
	maxIndex   = 64 << 20  // bytes
	maxCPUs    = 1024
	maxMiB     = 64 << 20 // 64 TiB
)

// MaxDocument is the largest file in bytes that may describe an image; the list of
// openclaw's packages has about 1 MiB.
const MaxDocument = 16 << 20

// kernelNames are the asset names of a row's kernel; layers may not use them.
var kernelNames = [...]string{"kernel", "modules"}

// FileName is the published name of bytes: what they are, their digest, and an
// extension that starts with a dot. It satisfies Validate's rule for Blob.File.
func FileName(name, sha256, extension string) string {
	return name + "-" + sha256 + extension
}

// Validate checks every value of a document: names that are safe as one path
// element on any file system, digests, sizes, and rows that differ. It is the
// same check for reading and for publishing.
func Validate(m Manifest) error {
	if err := validateHead(m); err != nil {
		return err
	}
	seen := make(map[[3]string]bool, len(m.Rows))
	for i, row := range m.Rows {
		key := [3]string{row.Preset, row.Arch, row.VMM}
		if seen[key] {
			return fmt.Errorf("row %d: a second row for %s, %s, %s", i, row.Preset, row.Arch, row.VMM)
		}
		seen[key] = true
		if err := validateRow(row); err != nil {
			return fmt.Errorf("row %d (%.60q, %.20q, %.20q): %w", i, row.Preset, row.Arch, row.VMM, err)
		}
	}
	return nil
}

func validateHead(m Manifest) error {
	switch {
	case m.Schema != Schema:
		return fmt.Errorf("%w %d, this program reads %d", ErrSchema, m.Schema, Schema)
	case !isName(m.Release, "._-"):
		return fmt.Errorf("release %.80q is not a plain lower-case name", m.Release)
	case m.Serial < 1:
		return fmt.Errorf("serial %d is not positive", m.Serial)
	case m.Created.IsZero() || m.Expires.IsZero() || !m.Expires.After(m.Created):
		return fmt.Errorf("created %v and expires %v are not a span of time", m.Created, m.Expires)
	case len(m.Rows) > maxRows:
		return fmt.Errorf("%d rows, at most %d are allowed", len(m.Rows), maxRows)
	}
	if m.MinVersion != "" {
		if _, ok := parseVersion(m.MinVersion); !ok {
			return fmt.Errorf("min_version %.40q is not of the form 1.2.3", m.MinVersion)
		}
	}
	return validateMirrors(m.Mirrors)
}

func validateRow(r Row) error {
	switch {
	case !isName(r.Preset, "-"):
		return fmt.Errorf("preset %.80q is not a plain lower-case name", r.Preset)
	case r.Arch != "amd64" && r.Arch != "arm64":
		return fmt.Errorf("arch %.40q is neither amd64 nor arm64", r.Arch)
	case r.VMM != "qemu" && r.VMM != "firecracker":
		return fmt.Errorf("vmm %.40q is neither qemu nor firecracker", r.VMM)
	case !isText(r.Agent.Name) || !isText(r.Agent.Version):
		return errors.New("agent name or version is empty, long or not plain text")
	case len(r.Layers) < 1 || len(r.Layers) > maxLayers:
		return fmt.Errorf("%d layers, 1 to %d are allowed", len(r.Layers), maxLayers)
	}
	if err := validateResources(r.Resources); err != nil {
		return err
	}
	if err := validateKernel(r.Kernel); err != nil {
		return err
	}
	if err := validateLayers(r.Layers); err != nil {
		return err
	}
	return validateDocuments(r)
}

// validateDocuments checks the files that describe an image.
func validateDocuments(r Row) error {
	if r.SBOM != nil {
		if err := validateBlob(*r.SBOM, MaxDocument); err != nil {
			return fmt.Errorf("sbom: %w", err)
		}
	}
	if r.Build != nil {
		if err := validateBlob(*r.Build, MaxDocument); err != nil {
			return fmt.Errorf("build: %w", err)
		}
	}
	return nil
}

func validateResources(r Resources) error {
	switch {
	case r.CPUs < 0 || r.CPUs > maxCPUs:
		return fmt.Errorf("cpus %d is not between 0 and %d", r.CPUs, maxCPUs)
	case r.MemoryMiB < 0 || r.MemoryMiB > maxMiB, r.DiskMiB < 0 || r.DiskMiB > maxMiB:
		return fmt.Errorf("memory %d MiB or disk %d MiB is not between 0 and %d", r.MemoryMiB, r.DiskMiB, maxMiB)
	}
	return nil
}

func validateKernel(k Kernel) error {
	switch {
	case !isText(k.Version):
		return errors.New("kernel version is empty, long or not plain text")
	case k.StandIn != "" && !isText(k.StandIn):
		return errors.New("kernel stand_in is long or not plain text")
	case k.Source != "" && !isText(k.Source):
		return errors.New("kernel source is long or not plain text")
	case len(k.CommandLine) > maxCommand || !isPrintable(k.CommandLine):
		return errors.New("kernel command_line is long or not plain text")
	case k.Image.Name != kernelNames[0]:
		return fmt.Errorf("the kernel's image is called %.80q, not %q", k.Image.Name, kernelNames[0])
	case k.Modules != nil && k.Modules.Name != kernelNames[1]:
		return fmt.Errorf("the kernel's modules are called %.80q, not %q", k.Modules.Name, kernelNames[1])
	}
	if err := validateAsset(k.Image); err != nil {
		return err
	}
	if k.Modules != nil {
		return validateAsset(*k.Modules)
	}
	return nil
}

func validateLayers(layers []Asset) error {
	seen := map[string]bool{kernelNames[0]: true, kernelNames[1]: true}
	for _, layer := range layers {
		if err := validateAsset(layer); err != nil {
			return err
		}
		if seen[layer.Name] {
			return fmt.Errorf("two assets are called %q", layer.Name)
		}
		seen[layer.Name] = true
	}
	return nil
}

func validateAsset(a Asset) error {
	if !isName(a.Name, "-") {
		return fmt.Errorf("asset %.80q is not a plain lower-case name", a.Name)
	}
	if err := validateBlob(a.Archive, maxBlob); err != nil {
		return fmt.Errorf("asset %s: archive: %w", a.Name, err)
	}
	if err := validateBlob(a.Index, maxIndex); err != nil {
		return fmt.Errorf("asset %s: index: %w", a.Name, err)
	}
	if err := validateDigest(a.Content, maxBlob); err != nil {
		return fmt.Errorf("asset %s: content: %w", a.Name, err)
	}
	return nil
}

func validateBlob(b Blob, limit int64) error {
	if err := validateDigest(b.Digest, limit); err != nil {
		return err
	}
	switch {
	case len(b.File) > maxFile || !isPathElement(b.File, "._-"):
		return fmt.Errorf("file %.80q is not a plain lower-case name", b.File)
	case !strings.Contains(b.File, b.SHA256):
		return fmt.Errorf("file %q does not hold its digest %s", b.File, b.SHA256)
	}
	return nil
}

func validateDigest(d Digest, limit int64) error {
	switch {
	case !IsSHA256(d.SHA256):
		return fmt.Errorf("sha256 %.80q is not 64 lower-case hexadecimal digits", d.SHA256)
	case d.Size < 1 || d.Size > limit:
		return fmt.Errorf("size %d is not between 1 and %d", d.Size, limit)
	}
	return nil
}

// IsSHA256 reports whether s is a digest as the manifest writes it. Such a
// string is safe as a path element.
func IsSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isName(s, marks string) bool { return len(s) <= maxName && isPathElement(s, marks) }

// isPathElement refuses whatever means something to a file system, a shell or a
// terminal. Upper case is out because some file systems fold it.
func isPathElement(s, marks string) bool {
	for i := range len(s) {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || strings.IndexByte(marks, c) < 0) {
			return false
		}
	}
	return s != "" && !strings.Contains(s, "..") && !strings.HasSuffix(s, ".")
}

func isText(s string) bool { return s != "" && len(s) <= maxText && isPrintable(s) }

func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
