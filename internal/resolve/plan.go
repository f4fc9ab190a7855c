package resolve

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/store"
)

// Inventory tells what is here already, without reading contents.
type Inventory interface {
	Lookup(ctx context.Context, key string) (store.Object, error)
}

// Role is what an asset is for.
type Role string

// The roles.
const (
	Kernel  Role = "kernel"
	Modules Role = "modules"
	Layer   Role = "layer"
)

// Step is one asset of a plan.
type Step struct {
	Role  Role           `json:"role"`
	Asset manifest.Asset `json:"asset"`
	State store.State    `json:"state"`
}

// Plan is what acquiring an image will do. Nothing has been done yet.
type Plan struct {
	Address string       `json:"manifest"`
	Release string       `json:"release"`
	Serial  int64        `json:"serial"`
	Signers []string     `json:"signers"`
	Row     manifest.Row `json:"row"`
	// Places are Catalogue.Places; they may hold passwords.
	Places  []string  `json:"-"`
	Steps   []Step    `json:"steps"` // kernel, modules, layers from the bottom
	Fetch   int64     `json:"fetch"` // bytes to download
	Expires time.Time `json:"expires"`
	Expired bool      `json:"expired,omitempty"` // what is here may run, nothing is fetched
}

// Plan finds out what of a row is here. An expired catalogue allows no fetching.
func (c Catalogue) Plan(ctx context.Context, row manifest.Row, inventory Inventory) (Plan, error) {
	p := Plan{
		Address: fetch.Shown(c.Address), Release: c.Manifest.Release, Serial: c.Manifest.Serial,
		Signers: c.Signers, Row: row, Places: c.Places, Expires: c.Manifest.Expires, Expired: c.Expired,
	}
	p.Steps = steps(row)
	for i := range p.Steps {
		step := &p.Steps[i]
		object, err := inventory.Lookup(ctx, step.Asset.Index.SHA256)
		if err != nil {
			return Plan{}, fmt.Errorf("plan %s: %w", row.Preset, err)
		}
		step.State = object.State
		if step.State == store.Absent {
			p.Fetch += step.Asset.Archive.Size
		}
	}
	if p.Fetch > 0 {
		return p, p.MayFetch()
	}
	return p, nil
}

// MayFetch refuses to fetch anything by an expired manifest.
func (p Plan) MayFetch() error {
	if !p.Expired {
		return nil
	}
	return fault.New(fault.Trust,
		"Ask its publisher for a newer one. If this computer's clock is wrong, set it. What was downloaded before still starts.",
		"use the manifest at %s: it expired on %s, and not everything it names is here",
		p.Address, p.Expires.UTC().Format(time.DateOnly))
}

func steps(row manifest.Row) []Step {
	steps := []Step{{Role: Kernel, Asset: row.Kernel.Image}}
	if row.Kernel.Modules != nil {
		steps = append(steps, Step{Role: Modules, Asset: *row.Kernel.Modules})
	}
	for _, layer := range row.Layers {
		steps = append(steps, Step{Role: Layer, Asset: layer})
	}
	return steps
}

// String is the plan for people, one line per asset.
func (p Plan) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "image %s, %s, %s of release %s (serial %d, signed by %s)\n",
		p.Row.Preset, p.Row.Arch, p.Row.VMM, p.Release, p.Serial, strings.Join(p.Signers, ", "))
	for _, step := range p.Steps {
		fmt.Fprintf(&out, "  %-8s %-16s %s\n", step.Role, step.Asset.Name, step.what(p.Places))
	}
	fmt.Fprintf(&out, "download %d bytes\n", p.Fetch)
	return out.String()
}

func (s Step) what(places []string) string {
	switch s.State {
	case store.Ready:
		return "is here"
	case store.Doubtful:
		return "is here and was touched: verify every byte"
	}
	if len(places) == 0 {
		return fmt.Sprintf("fetch %d bytes", s.Asset.Archive.Size)
	}
	return fmt.Sprintf("fetch %d bytes from %s", s.Asset.Archive.Size, fetch.Shown(fetch.Beside(places[0], s.Asset.Archive.File)))
}
