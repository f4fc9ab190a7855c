package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// updateOptions are what `update` was asked for.
type updateOptions struct {
	Names             []string // none: all that are outdated
	DryRun, Yes, JSON bool
}

func newUpdate(app *App, run func(context.Context, *App, updateOptions) error) *cobra.Command {
	o := updateOptions{}
	cmd := &cobra.Command{
		Use:   "update [NAME...]",
		Short: "Give stopped sandboxes the newest image; home and workspace stay",
		Long: `Give sandboxes that are stopped the newest image of their preset, with a newer
agent and system; without names all that are outdated. /home/agent, /workspace
and what Docker and Podman keep stay. What was changed elsewhere in the system,
such as packages installed with apt, is dropped: it is shown first. Where
something is dropped, a terminal is asked; without a terminal it needs --yes.`,
		Example: `  smolvm update
  smolvm update claude-code --dry-run
  smolvm update claude-code --yes`,
		ValidArgsFunction: app.completeAll(sandbox.Stopped),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only show what would be done")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask")
	jsonFlag(cmd, &o.JSON, "what was updated and what that dropped")
	return cmd
}

// updateView is the data of `update --json`.
type updateView struct {
	DryRun  bool         `json:"dry_run"`
	Updated []updateItem `json:"updated"` // or would be
	Current []string     `json:"current"` // have the newest image
	Running []string     `json:"running"` // outdated, but not stopped
}

// updateItem is one sandbox with another image.
type updateItem struct {
	Name     string       `json:"name"`
	From     newerView    `json:"from"`
	To       newerView    `json:"to"`
	Packages []string     `json:"dropped_packages"`
	Dropped  []changeView `json:"dropped"`
	More     bool         `json:"more_dropped"` // than are listed

	status sandbox.Status
	launch *launch
}

type changeView struct {
	Path    string `json:"path"`
	Files   int    `json:"files"` // below it, when it is a folder
	Removed bool   `json:"removed"`
}

func runUpdate(ctx context.Context, app *App, o updateOptions) error {
	boxes, view, err := app.planUpdate(ctx, o)
	if err != nil {
		return err
	}
	if !o.JSON {
		app.sayUpdate(view)
	}
	if o.DryRun || len(view.Updated) == 0 {
		return app.updated(view, o)
	}
	if yes, err := app.mayUpdate(ctx, view, o); !yes {
		return err
	}
	var errs []error
	done := view.Updated[:0:0]
	for _, item := range view.Updated {
		err := app.update(ctx, boxes, item)
		if errs = append(errs, err); err == nil {
			done = append(done, item)
		}
	}
	view.Updated = done
	return errors.Join(errors.Join(errs...), app.updated(view, o))
}

// planUpdate finds out what there is to do, before anything is downloaded.
func (a *App) planUpdate(ctx context.Context, o updateOptions) (sandboxes, updateView, error) {
	view := updateView{DryRun: o.DryRun, Updated: []updateItem{}, Current: []string{}, Running: []string{}}
	boxes, err := a.allThere(o.Names)
	if err != nil {
		return nil, view, err
	}
	all, err := boxes.List()
	if err != nil {
		return nil, view, err
	}
	for _, s := range all {
		named := slices.Contains(o.Names, s.Name)
		if !named && (len(o.Names) > 0 || s.State == sandbox.Broken) {
			continue
		}
		if err := a.planOne(ctx, boxes, s, named, &view); err != nil {
			return nil, view, err
		}
	}
	return boxes, view, nil
}

// planOne adds one sandbox to the plan.
func (a *App) planOne(ctx context.Context, boxes sandboxes, s sandbox.Status, named bool, view *updateView) error {
	if s.State == sandbox.Broken {
		return fault.New(fault.Conflict, "Delete it: smolvm delete "+s.Name, "sandbox %q is broken: %s", s.Name, s.LastError)
	}
	if !named && s.Image.Release == imagebuild.LocalRelease {
		return nil // it was built here
	}
	item, row, outdated, err := a.outdated(ctx, s, named)
	switch {
	case err != nil && !named && fault.CodeOf(err) == fault.NotFound:
		a.warn("%s is left as it is: %v", s.Name, err)
		return nil
	case err != nil:
		return err
	case !outdated:
		view.Current = append(view.Current, s.Name)
		return nil
	case s.State != sandbox.Stopped && named:
		return fault.New(fault.Conflict, "Stop it first: smolvm stop "+s.Name, "sandbox %q is running: its layers are in use", s.Name)
	case s.State != sandbox.Stopped:
		view.Running = append(view.Running, s.Name)
		return nil
	}
	changes, err := boxes.Changes(s.Name)
	if err != nil {
		return err
	}
	item.To.Agent = agentView{row.Agent.Name, row.Agent.Version}
	item.Packages, item.More = append([]string{}, changes.Packages...), changes.More
	item.Dropped = []changeView{}
	for _, c := range changes.Paths {
		item.Dropped = append(item.Dropped, changeView(c))
	}
	view.Updated = append(view.Updated, item)
	return nil
}

// outdated asks the sandbox's catalogue whether it has another image for it now.
// Only who names a sandbox moves it to another catalogue than it came from.
func (a *App) outdated(ctx context.Context, s sandbox.Status, named bool) (item updateItem, row manifest.Row, yes bool, err error) {
	p, err := a.presetOf(s)
	if err != nil {
		return item, row, false, err
	}
	m, err := a.Machine(s.Arch, s.VMM)
	if err != nil {
		return item, row, false, err
	}
	l := &launch{app: a, preset: p, machine: m}
	found, row, why, err := l.find(ctx)
	if err != nil {
		return item, row, false, err
	}
	if why != "" {
		return item, row, false, fault.New(fault.Conflict, "Make another sandbox instead: smolvm "+p.Name+" start --new.",
			"sandbox %q: %s, and update does not build images", s.Name, why)
	}
	item = updateItem{
		Name: s.Name, From: newerView{s.Image.Release, agentView{s.Agent.Name, s.Agent.Version}},
		To: newerView{Release: found.Manifest.Release}, status: s, launch: l,
	}
	return item, row, !slices.Equal(rowKeys(row), keysOf(s.Image)) && (named || fetch.Shown(found.Address) == s.Image.Address), nil
}

// presetOf finds the preset that a sandbox was made of.
func (a *App) presetOf(s sandbox.Status) (p preset.Preset, err error) {
	all, err := a.AllPresets()
	if err != nil {
		return p, err
	}
	at := slices.IndexFunc(all, func(p preset.Preset) bool { return p.Name == s.Preset })
	if at < 0 {
		return p, fault.New(fault.NotFound, "Name its file with --preset-file.", "sandbox %q was made of the preset %q, which is not here", s.Name, s.Preset)
	}
	return all[at], nil
}

// mayUpdate asks where something is dropped.
func (a *App) mayUpdate(ctx context.Context, view updateView, o updateOptions) (bool, error) {
	drops := slices.ContainsFunc(view.Updated, updateItem.drops)
	switch {
	case o.Yes || !drops:
		return true, nil
	case a.Streams.Interactive():
		return a.Streams.Confirm(ctx, "Update, and drop these changes?")
	}
	return false, refuse("Add --yes, or see --dry-run.", "the update drops changes of the system, and there is no terminal to ask on")
}

func (i updateItem) drops() bool { return len(i.Dropped)+len(i.Packages) > 0 }

// update brings the image here and gives it to the sandbox. The lease holds it
// until the sandbox's record does.
func (a *App) update(ctx context.Context, boxes sandboxes, item updateItem) error {
	row, image, lease, err := item.launch.obtain(ctx)
	if err != nil {
		return fmt.Errorf("update %s: %w", item.Name, err)
	}
	defer a.giveUp(lease)
	_, err = boxes.Update(item.Name, image, record.Agent(row.Agent))
	return err
}

// shownChanges is how many dropped paths people are shown.
const shownChanges = 20

// sayUpdate says what will be done and what that drops.
func (a *App) sayUpdate(view updateView) {
	for _, i := range view.Updated {
		a.Streams.Say("%s: %s to %s", i.Name, i.From.text(), i.To.text())
		a.Streams.Say("  stays: /home/agent, /workspace, images and containers of Docker and Podman")
		if len(i.Packages) > 0 {
			a.Streams.Say("  drops packages: %s", clipList(i.Packages, 2*shownChanges))
		}
		for n, c := range i.Dropped {
			if n == shownChanges {
				a.Streams.Say("  drops more; all with --json")
				break
			}
			a.Streams.Say("  %s", c.text())
		}
		if !i.drops() {
			a.Streams.Say("  drops nothing")
		}
	}
}

func (v newerView) text() string {
	return strings.TrimSpace(v.Agent.Name+" "+v.Agent.Version) + " (" + v.Release + ")"
}

func (c changeView) text() string {
	switch {
	case c.Removed:
		return "brings back " + c.Path
	case c.Files > 1:
		return fmt.Sprintf("drops %s (%d files)", c.Path, c.Files)
	}
	return "drops " + c.Path
}

// clipList joins words, at most so many of them.
func clipList(words []string, most int) string {
	if len(words) <= most {
		return strings.Join(words, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
}

// updated says what was done.
func (a *App) updated(view updateView, o updateOptions) error {
	if o.JSON {
		return ui.WriteData(a.Streams.Out, view)
	}
	for _, i := range view.Updated {
		if !o.DryRun {
			a.Streams.Say("updated %s", i.Name)
		}
	}
	for _, name := range view.Current {
		if len(o.Names) > 0 {
			a.Streams.Say("%s has the newest image already", name)
		}
	}
	for _, name := range view.Running {
		a.Streams.Say("%s runs: smolvm stop %s, then smolvm update %s", name, name, name)
	}
	if len(o.Names) == 0 && len(view.Updated)+len(view.Running) == 0 {
		a.Streams.Say("No sandbox is outdated.")
	}
	return nil
}
