package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// snapshotCreateOptions are what `snapshot create` was asked for.
type snapshotCreateOptions struct {
	Name          string
	Snapshot      string // empty: one like Name
	Secrets, JSON bool
}

func newSnapshotCreate(app *App, run func(context.Context, *App, snapshotCreateOptions) error) *cobra.Command {
	o := snapshotCreateOptions{}
	cmd := &cobra.Command{
		Use:   "create NAME [SNAPSHOT] [--with-secrets]",
		Short: "Keep a running sandbox: its memory, programs and disk",
		Long: `Keep a running sandbox under the name SNAPSHOT, else under its own: its memory,
programs and disk. It stands still meanwhile, and goes on; what was connected to it
has to connect again. Mounts are not kept, only which there are.

A sandbox that was given credentials has them in its memory, and is kept only with
--with-secrets.`,
		Example: `  smolvm snapshot create claude-code
  smolvm snapshot create claude-code ready --json`,
		Args:              arguments(1, 2),
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			if len(args) > 1 {
				o.Snapshot = args[1]
				if err := record.ValidateSnapshotName(o.Snapshot); err != nil {
					return err
				}
			}
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.Secrets, "with-secrets", false, "credentials in its memory may be in the snapshot")
	jsonFlag(cmd, &o.JSON, "the snapshot")
	return cmd
}

func runSnapshotCreate(ctx context.Context, app *App, o snapshotCreateOptions) error {
	boxes, _, err := app.onlyRunning(o.Name, "kept")
	if err != nil {
		return err
	}
	if o.Snapshot == "" {
		if o.Snapshot, err = freeSnapshot(boxes, o.Name); err != nil {
			return err
		}
	}
	kept, err := boxes.Snapshot(ctx, o.Name, o.Snapshot, o.Secrets)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, viewOfSnapshot(kept))
	}
	app.Streams.Say("kept %s as snapshot %s, %s", o.Name, o.Snapshot, ui.Bytes(kept.OnDisk))
	return nil
}

// freeSnapshot is the sandbox's name, made unique among the snapshots.
func freeSnapshot(boxes snapshots, name string) (string, error) {
	taken, err := snapshotNames(boxes)
	return freeName(name, taken), err
}

// snapshotRestoreOptions are what `snapshot restore` was asked for.
type snapshotRestoreOptions struct {
	Snapshot string
	Name     string // empty: that of the sandbox that was kept
	JSON     bool
}

func newSnapshotRestore(app *App, run func(context.Context, *App, snapshotRestoreOptions) error) *cobra.Command {
	o := snapshotRestoreOptions{}
	cmd := &cobra.Command{
		Use:   "restore SNAPSHOT [-n NAME]",
		Short: "Make a sandbox that runs on from a snapshot",
		Long: `Make a sandbox that runs on from a snapshot, under the name of the one that was kept
where that is free, else NAME-2 and so on. It has SSH keys, a machine-id, a host name
and random numbers of its own before anybody gets in. The snapshot stays.`,
		Example: `  smolvm snapshot restore ready
  smolvm snapshot restore ready -n second --json`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeSnapshots(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Snapshot = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().VarP(wordFlag{&o.Name}, "name", "n", "`NAME` of the sandbox")
	jsonFlag(cmd, &o.JSON, "the sandbox")
	return cmd
}

func runSnapshotRestore(ctx context.Context, app *App, o snapshotRestoreOptions) error {
	if o.Name != "" {
		if err := record.ValidateName(o.Name); err != nil {
			return err
		}
	}
	boxes, err := app.snapshotsThere([]string{o.Snapshot})
	if err != nil {
		return err
	}
	kept, err := boxes.GetSnapshot(o.Snapshot)
	if err != nil {
		return err
	}
	if err := app.Intact(ctx, kept.Image); err != nil {
		return err
	}
	fork, err := app.fork(kept.Record)
	if err != nil {
		return err
	}
	if fork.Names, err = restoredName(boxes, kept, o.Name); err != nil {
		return err
	}
	if _, err := boxes.Restore(ctx, o.Snapshot, fork); err != nil {
		return err
	}
	app.sayKept(kept.Record, fork.Names)
	if !o.JSON {
		app.Streams.Say("restored %s: %s runs", o.Snapshot, fork.Names[0])
		return nil
	}
	s, err := boxes.Get(fork.Names[0])
	if err != nil {
		return err
	}
	return ui.WriteData(app.Streams.Out, app.viewOf(s))
}

// restoredName is the name that was asked for, which has to be free, or one like that
// of the sandbox that was kept.
func restoredName(boxes sandboxes, kept sandbox.Kept, wanted string) ([]string, error) {
	names, err := boxes.Names()
	if err != nil {
		return nil, err
	}
	switch {
	case wanted != "" && slices.Contains(names, wanted):
		return nil, fault.New(fault.Conflict, "Choose another name with -n.", "there is already a sandbox %q", wanted)
	case wanted != "":
		return []string{wanted}, nil
	case !slices.Contains(names, kept.Snapshot.Of):
		return []string{kept.Snapshot.Of}, nil
	}
	name, err := nextWithin(kept.Snapshot.Of, names, "Choose a name with -n.")
	return []string{name}, err
}
