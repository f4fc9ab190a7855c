package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/resolve"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// anySandbox is the state of no sandbox: where states are chosen, it means all.
const anySandbox = ""

// one gives one sandbox, or the fault that there is none of that name.
func (a *App) one(name string) (sandboxes, sandbox.Status, error) {
	boxes, err := a.allThere([]string{name})
	if err != nil {
		return nil, sandbox.Status{}, err
	}
	s, err := boxes.Get(name)
	return boxes, s, err
}

// allThere refuses names of sandboxes that do not exist, before work on any of them.
func (a *App) allThere(names []string) (sandboxes, error) {
	boxes, err := a.Sandboxes()
	if err != nil {
		return nil, err
	}
	all, err := boxes.Names()
	if err != nil {
		return nil, err
	}
	return boxes, allAmong(all, names, "sandbox", "See smolvm list.")
}

// allAmong refuses names that are not among all.
func allAmong(all, names []string, noun, hint string) error {
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fault.New(fault.NotFound, nearHint(name, all, hint), "there is no %s %q", noun, name)
		}
	}
	return nil
}

// runningSandbox refuses a sandbox that is not running.
func (a *App) runningSandbox(name string) (sandboxes, error) {
	boxes, s, err := a.one(name)
	switch {
	case err != nil || s.State == sandbox.Running:
		return boxes, err
	case s.State == sandbox.Broken:
		return boxes, fault.New(fault.NotRunning,
			"If a newer smolvm made it, use that one. To remove it with its disk: smolvm delete "+name,
			"sandbox %q is broken: %s", name, s.LastError)
	}
	return boxes, fault.New(fault.NotRunning, "Start it: smolvm start "+name, "sandbox %q is %s", name, s.State)
}

// notPublished says what can be done about a preset that the manifest has no image for.
func notPublished(preset string, m machine, c resolve.Catalogue) error {
	var there []string
	for _, row := range c.Manifest.Rows {
		if row.Arch == m.arch && row.VMM == m.vmm && !slices.Contains(there, row.Preset) {
			there = append(there, row.Preset)
		}
	}
	hint := fmt.Sprintf("smolvm %s start builds it on this computer.", preset)
	if len(there) > 0 {
		hint += fmt.Sprintf(" Published for this computer: %s.", strings.Join(there, ", "))
	}
	return fault.New(fault.NotFound, hint, "no image of %s for %s on %s is published", preset, m.vmm, m.arch)
}
