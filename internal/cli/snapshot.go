package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// snapshots is what the commands ask of the sandbox room about snapshots.
type snapshots interface {
	Snapshot(ctx context.Context, from, name string, secrets bool) (sandbox.Kept, error)
	Restore(ctx context.Context, snapshot string, f sandbox.Fork) (record.Record, error)
	Snapshots() ([]sandbox.Kept, error)
	GetSnapshot(name string) (sandbox.Kept, error)
	RemoveSnapshot(name string) error
}

// snapshotView is a snapshot in JSON.
type snapshotView struct {
	Name    string    `json:"name"`
	Of      string    `json:"of"` // the sandbox's name when it was kept
	Created time.Time `json:"created"`
	Preset  string    `json:"preset"`
	Agent   agentView `json:"agent"`
	VMM     string    `json:"vmm"`
	CPUs    int       `json:"cpus"`
	Memory  int64     `json:"memory_mib"`
	Disk    int64     `json:"disk_bytes"`
	OnDisk  int64     `json:"on_disk_bytes"` // what it takes on this computer, without images
	Secrets bool      `json:"with_secrets"`  // credentials may be in its memory
	Broken  string    `json:"broken"`        // why it can only be removed; empty: it can be restored
}

func viewOfSnapshot(k sandbox.Kept) snapshotView {
	v := snapshotView{
		Name: k.Name, Created: k.Created, Preset: k.Preset, Agent: agentView{k.Agent.Name, k.Agent.Version}, VMM: k.VMM,
		CPUs: k.CPUs, Memory: k.MemoryMiB, Disk: k.DiskBytes, OnDisk: k.OnDisk, Broken: k.Broken,
	}
	if k.Snapshot != nil {
		v.Of, v.Secrets = k.Snapshot.Of, k.Snapshot.Secrets
	}
	return v
}

func newSnapshot(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "snapshot",
		Short: "Keep running sandboxes, and run on from where they were",
		Example: `  smolvm snapshot create claude-code ready
  smolvm snapshot restore ready -n second`,
	})
	cmd.AddCommand(newSnapshotCreate(app, runSnapshotCreate), newSnapshotRestore(app, runSnapshotRestore),
		newSnapshotList(app, runSnapshotList), newSnapshotRemove(app, runSnapshotRemove))
	return cmd
}

func newSnapshotList(app *App, run func(context.Context, *App, listOptions) error) *cobra.Command {
	o := listOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the snapshots",
		Example: `  smolvm snapshot list
  smolvm snapshot list --json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "names only, one a line")
	jsonFlag(cmd, &o.JSON, "an array of snapshots")
	return cmd
}

func runSnapshotList(_ context.Context, app *App, o listOptions) error {
	boxes, err := app.Sandboxes()
	if err != nil {
		return err
	}
	all, err := boxes.Snapshots()
	if err != nil {
		return err
	}
	views := make([]snapshotView, 0, len(all))
	for _, k := range all {
		views = append(views, viewOfSnapshot(k))
	}
	switch {
	case o.JSON:
		return ui.WriteData(app.Streams.Out, views)
	case o.Quiet:
		for _, v := range views {
			if _, err := fmt.Fprintln(app.Streams.Out, v.Name); err != nil {
				return err
			}
		}
		return nil
	case len(all) == 0:
		app.Streams.Say("There are no snapshots. Make one: smolvm snapshot create NAME")
		return nil
	}
	return app.table(app.snapshotTable(views))
}

func (a *App) snapshotTable(views []snapshotView) *ui.Table {
	table := ui.NewTable("NAME", "OF", "PRESET", "AGENT", "MEMORY", "DISK", "SECRETS", "AGE", "STATE")
	for _, v := range views {
		secrets, state := "", "ok"
		if v.Secrets {
			secrets = "maybe"
		}
		if v.Broken != "" {
			state = "broken: " + ui.Clean(v.Broken)
		}
		table.Add(v.Name, v.Of, v.Preset, v.Agent.Version, size(v.Memory<<20), size(v.OnDisk), secrets, ui.Age(a.Now(), v.Created), state)
	}
	return table
}

// snapshotRemoveOptions are what `snapshot rm` was asked for.
type snapshotRemoveOptions struct {
	Names []string
	JSON  bool
}

func newSnapshotRemove(app *App, run func(context.Context, *App, snapshotRemoveOptions) error) *cobra.Command {
	o := snapshotRemoveOptions{}
	cmd := &cobra.Command{
		Use:     "rm SNAPSHOT...",
		Aliases: []string{"delete"},
		Short:   "Remove snapshots",
		Long: `Remove snapshots with the memory and the disk in them. Sandboxes that were restored
of them need them no longer. Nothing is asked.`,
		Example:           `  smolvm snapshot rm ready`,
		Args:              arguments(1, anyNumber),
		ValidArgsFunction: app.completeSnapshots(anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the names")
	return cmd
}

func runSnapshotRemove(_ context.Context, app *App, o snapshotRemoveOptions) error {
	boxes, err := app.snapshotsThere(o.Names)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range o.Names {
		errs = append(errs, boxes.RemoveSnapshot(name))
	}
	return app.namesDone("removed", o.Names, errs, o.JSON)
}

// snapshotsThere refuses names of which there is no snapshot, before anything is done.
func (a *App) snapshotsThere(names []string) (sandboxes, error) {
	boxes, err := a.Sandboxes()
	if err != nil {
		return nil, err
	}
	all, err := snapshotNames(boxes)
	if err != nil {
		return nil, err
	}
	return boxes, allAmong(all, names, "snapshot", "See smolvm snapshot list.")
}

func snapshotNames(boxes snapshots) (names []string, err error) {
	all, err := boxes.Snapshots()
	for _, k := range all {
		names = append(names, k.Name)
	}
	return names, err
}

// completeSnapshots offers the snapshots that are not yet among the arguments, of which
// there are at most so many.
func (a *App) completeSnapshots(most int) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		boxes, err := a.Sandboxes()
		if err != nil || most != anyNumber && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, _ := snapshotNames(boxes) // no names are better than an error in the middle of a line
		named := func(name string) bool { return slices.Contains(args, name) }
		return slices.DeleteFunc(names, named), cobra.ShellCompDirectiveNoFileComp
	}
}
