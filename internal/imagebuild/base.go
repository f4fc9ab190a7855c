package imagebuild

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
)

// Base is the recipe of the layer that every preset stands on, and of the kernel.
type Base struct {
	Name      string           `toml:"name" json:"name"`
	Suite     string           `toml:"suite" json:"suite"` // of the distribution
	Packages  []string         `toml:"packages" json:"packages"`
	Exclude   []string         `toml:"exclude" json:"exclude,omitempty"` // dpkg path patterns
	Include   []string         `toml:"include" json:"include,omitempty"` // exceptions to Exclude
	Epoch     int64            `toml:"epoch" json:"epoch"`               // seconds since 1970: no file of a layer is newer
	Resources preset.Resources `toml:"resources" json:"resources"`       // of build sandboxes
	Wheels    []Wheel          `toml:"wheels" json:"wheels,omitempty"`
	Kernel    KernelSource     `toml:"kernel" json:"kernel"`
	Recipe    preset.Recipe    `toml:"recipe" json:"recipe"`
	// Locks are the packages with all they depend on, by architecture, from the lock
	// files beside the recipe. Each is part of its own architecture's key only.
	Locks map[string][]Locked `toml:"-" json:"-"`
}

// Wheel is a pinned archive of the Python package index, of which some files are
// put into the base.
type Wheel struct {
	Name      string              `toml:"name" json:"name"`
	Version   string              `toml:"version" json:"version"`
	Platforms map[string]Platform `toml:"platforms" json:"platforms"` // by architecture
	Paths     []WheelPath         `toml:"paths" json:"paths"`
	Links     []Link              `toml:"links" json:"links,omitempty"`
	License   string              `toml:"license" json:"-"` // SPDX expression, for the bill of materials; it changes no layer
}

// Platform is one build of a wheel.
type Platform struct {
	Tag    string `toml:"tag" json:"tag"`       // pip's platform tag
	SHA256 string `toml:"sha256" json:"sha256"` // lower-case hexadecimal
}

// WheelPath takes a file, or with a trailing slash a folder, out of a wheel.
type WheelPath struct {
	From    string   `toml:"from" json:"from"`
	To      string   `toml:"to" json:"to"`                     // absolute
	Mode    string   `toml:"mode" json:"mode,omitempty"`       // octal; as in the wheel when empty
	Exclude []string `toml:"exclude" json:"exclude,omitempty"` // prefixes below From
}

// Link is a symbolic link.
type Link struct {
	Path   string `toml:"path" json:"path"`
	Target string `toml:"target" json:"target"`
}

// KernelSource says which distribution package's kernel stands in for our own.
type KernelSource struct {
	StandIn     string `toml:"stand_in" json:"stand_in"`
	CommandLine string `toml:"command_line" json:"command_line"`
	// OwnCommandLine is that of SmolVM's own kernel.
	OwnCommandLine string            `toml:"own_command_line" json:"own_command_line,omitempty"`
	Modules        []string          `toml:"modules" json:"modules"`
	Packages       map[string]string `toml:"packages" json:"packages"` // by architecture
}

// Arches are the architectures images are built for.
var Arches = []string{"amd64", "arm64"}

// ReadBase reads the base recipe from a folder of recipes.
func ReadBase(files fs.FS) (Base, error) {
	data, err := fs.ReadFile(files, images.BaseFile)
	if err != nil {
		return Base{}, fmt.Errorf("read the base recipe: %w", err)
	}
	var b Base
	if err := config.DecodeRecipe(data, "base recipe "+images.BaseFile, &b); err != nil {
		return Base{}, err
	}
	if b.Locks, err = readLocks(files); err != nil {
		return Base{}, err
	}
	return b, b.Validate()
}

// Validate checks what decoding could not: every value that reaches a command
// line, a path or a digest comparison.
func (b Base) Validate() error {
	if err := b.validate(); err != nil {
		return fault.New(fault.Usage, "", "base recipe: %w", err)
	}
	return nil
}

func (b Base) validate() error {
	if !word(b.Name) || !word(b.Suite) {
		return fmt.Errorf("name %q and suite %q must be plain words", b.Name, b.Suite)
	}
	if b.Epoch <= 0 {
		return fmt.Errorf("epoch %d is not a time", b.Epoch)
	}
	if len(b.Packages) == 0 {
		return fmt.Errorf("no packages")
	}
	for _, p := range b.Packages {
		if !packageName(p) {
			return fmt.Errorf("package %q is not a package name", p)
		}
	}
	if err := b.validateLocks(); err != nil {
		return err
	}
	for _, w := range b.Wheels {
		if err := w.validate(); err != nil {
			return fmt.Errorf("wheel %q: %w", w.Name, err)
		}
	}
	for _, arch := range Arches {
		if !packageName(b.Kernel.Packages[arch]) {
			return fmt.Errorf("kernel has no package for %s", arch)
		}
	}
	return nil
}

func (w Wheel) validate() error {
	if !packageName(strings.ToLower(w.Name)) || w.Version == "" || strings.ContainsAny(w.Version, "*<>=~! \t\n") {
		return fmt.Errorf("version %q is not pinned", w.Version)
	}
	for _, arch := range Arches {
		p, ok := w.Platforms[arch]
		if !ok || !word(p.Tag) {
			return fmt.Errorf("no platform tag for %s", arch)
		}
		if !sha256Hex(p.SHA256) {
			return fmt.Errorf("digest %q for %s is not a SHA-256", p.SHA256, arch)
		}
	}
	for _, p := range w.Paths {
		if !absolute(p.To) || strings.HasSuffix(p.From, "/") != strings.HasSuffix(p.To, "/") {
			return fmt.Errorf("path %q to %q: both name a file, or both a folder by a trailing slash", p.From, p.To)
		}
	}
	for _, l := range w.Links {
		if !absolute(l.Path) || l.Target == "" {
			return fmt.Errorf("link %q to %q", l.Path, l.Target)
		}
	}
	return nil
}

// absolute tells whether p is an absolute path without . and .. in it.
func absolute(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == strings.TrimSuffix(p, "/") && len(p) > 1
}

func word(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune("-_.", r) })
}

func packageName(s string) bool {
	return len(s) > 1 && letterOrDigit(rune(s[0])) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune("-+.", r) })
}

func letterOrDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func sha256Hex(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && strings.ToLower(s) == s
}

// CheckArch refuses an architecture images are not built for.
func CheckArch(arch string) error {
	if !slices.Contains(Arches, arch) {
		return fault.New(fault.Usage, "Use amd64 or arm64.", "architecture %q is not one images are built for", arch)
	}
	return nil
}
