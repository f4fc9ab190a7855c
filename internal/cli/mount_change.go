package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
)

// mountOptions are what `mount add`, `remove` and `list` were asked for.
type mountOptions struct {
	Name     string
	Mounts   []string // to add: HOST[:GUEST[:ro]]; to remove: paths of either side
	SamePath bool
	JSON     bool
}

// mountsView is the data of these commands' JSON.
type mountsView struct {
	Name   string      `json:"name"`
	Mounts []mountView `json:"mounts"`
}

func newMount(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "mount",
		Short: "Add, remove and list the folders of this computer in a sandbox",
		Long: `Add, remove and list the folders and files of this computer that a sandbox sees,
while it runs or before its next start. They stay until they are removed.`,
	})
	cmd.AddCommand(newMountAdd(app, runMountAdd), newMountRemove(app, runMountRemove), newMountList(app, runMountList))
	return cmd
}

func newMountAdd(app *App, run func(context.Context, *App, mountOptions) error) *cobra.Command {
	o := mountOptions{}
	cmd := &cobra.Command{
		Use:   "add NAME HOST[:GUEST[:ro]]...",
		Short: "Mount further folders and files in a sandbox",
		Long: `Mount further folders and files of this computer in a sandbox; without GUEST at
/workspace. A sandbox that runs sees them when the command ends.`,
		Example: `  smolvm mount add claude-code ~/data:/data:ro
  smolvm mount add claude-code ../lib --mount-same-path`,
		Args: arguments(2, anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Mounts = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
		ValidArgsFunction: app.completeFirst(anySandbox),
	}
	cmd.Flags().BoolVar(&o.SamePath, "mount-same-path", false, "without GUEST, mount at the path that HOST has here")
	jsonFlag(cmd, &o.JSON, "all mounts of the sandbox")
	return cmd
}

func newMountRemove(app *App, run func(context.Context, *App, mountOptions) error) *cobra.Command {
	o := mountOptions{}
	cmd := &cobra.Command{
		Use:     "remove NAME GUEST...",
		Aliases: []string{"rm"},
		Short:   "Remove mounts of a sandbox",
		Long: `Remove mounts of a sandbox, named by their paths in it. Nothing of this computer
is deleted; programs of the sandbox that still use them get errors.`,
		Example:           `  smolvm mount remove claude-code /data`,
		Args:              arguments(2, anyNumber),
		ValidArgsFunction: app.completeMounts(),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Mounts = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the mounts that are left")
	return cmd
}

// completeMounts offers a sandbox, then its mounts.
func (a *App) completeMounts() completer {
	first := a.completeFirst(anySandbox)
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return first(cmd, args, begun)
		}
		var guests []string
		if _, s, err := a.one(args[0]); err == nil {
			for _, m := range s.Mounts {
				if !slices.Contains(args[1:], m.Guest) {
					guests = append(guests, m.Guest)
				}
			}
		}
		return guests, cobra.ShellCompDirectiveNoFileComp
	}
}

func newMountList(app *App, run func(context.Context, *App, mountOptions) error) *cobra.Command {
	o := mountOptions{}
	cmd := &cobra.Command{
		Use:               "list NAME",
		Aliases:           []string{"ls"},
		Short:             "List the mounts of a sandbox",
		Long:              "List the folders and files of this computer that a sandbox sees.",
		Example:           `  smolvm mount list claude-code`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "all mounts of the sandbox")
	return cmd
}

func runMountAdd(ctx context.Context, app *App, o mountOptions) error {
	boxes, s, err := app.changeable(o.Name)
	if err != nil {
		return err
	}
	change := supervise.MountChange{}
	for _, text := range o.Mounts {
		m, err := app.mount(text, o.SamePath)
		if err != nil {
			return err
		}
		change.Add = append(change.Add, m)
	}
	all, err := change.Apply(o.Name, s.Mounts, s.State == sandbox.Running)
	if err != nil {
		return err
	}
	for i, m := range all {
		if err := beside(m, all[:i]); err != nil && slices.Contains(change.Add, m) {
			return err
		}
	}
	r, err := boxes.Remount(ctx, o.Name, change)
	if err != nil {
		return err
	}
	return app.showMounts(o, r, s.State, change.Add, "mounted")
}

// changeable gives a sandbox whose mounts can be changed.
func (a *App) changeable(name string) (sandboxes, sandbox.Status, error) {
	boxes, s, err := a.one(name)
	if err == nil && s.State == sandbox.Broken {
		err = fault.New(fault.Conflict, "Delete it: smolvm delete "+name, "sandbox %q is broken: %s", name, s.LastError)
	}
	return boxes, s, err
}

func runMountRemove(ctx context.Context, app *App, o mountOptions) error {
	boxes, s, err := app.changeable(o.Name)
	if err != nil {
		return err
	}
	var gone []record.Mount
	change := supervise.MountChange{}
	for _, guest := range o.Mounts {
		i := slices.IndexFunc(s.Mounts, func(m record.Mount) bool { return m.Guest == guest })
		if i < 0 {
			return fault.New(fault.NotFound, "See smolvm mount list "+o.Name+".", "nothing is mounted at %s in sandbox %q", guest, o.Name)
		}
		gone, change.Remove = append(gone, s.Mounts[i]), append(change.Remove, guest)
	}
	r, err := boxes.Remount(ctx, o.Name, change)
	if err != nil {
		return err
	}
	return app.showMounts(o, r, s.State, gone, "removed")
}

// showMounts says what was done.
func (a *App) showMounts(o mountOptions, r record.Record, state string, changed []record.Mount, done string) error {
	if o.JSON {
		return ui.WriteData(a.Streams.Out, mountsView{Name: o.Name, Mounts: mountsOf(r.Mounts)})
	}
	when := ""
	if state != sandbox.Running {
		when = ", from its next start on"
	}
	for _, m := range changed {
		a.Streams.Say("%s %s%s", done, mountText(m), when)
	}
	return nil
}

func runMountList(_ context.Context, app *App, o mountOptions) error {
	_, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, mountsView{Name: o.Name, Mounts: mountsOf(s.Mounts)})
	}
	table := ui.NewTable("GUEST", "ACCESS", "HOST")
	for _, m := range mountsOf(s.Mounts) {
		table.Add(m.Guest, m.access(), m.Host)
	}
	return app.table(table)
}
