package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// listOptions are what `list` was asked for.
type listOptions struct{ JSON, Quiet bool }

func newList(app *App, run func(context.Context, *App, listOptions) error) *cobra.Command {
	o := listOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the sandboxes",
		Example: `  smolvm list
  smolvm list --quiet
  smolvm list --json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "names only, one a line")
	jsonFlag(cmd, &o.JSON, "an array of sandboxes")
	return cmd
}

func runList(ctx context.Context, app *App, o listOptions) error {
	boxes, err := app.Sandboxes()
	if err != nil {
		return err
	}
	all, err := boxes.List()
	if err != nil {
		return err
	}
	switch {
	case o.JSON:
		views := make([]sandboxView, 0, len(all))
		live := app.askLive(ctx, boxes, all)
		for _, s := range all {
			view := app.viewOf(s)
			live[s.Name].add(&view)
			views = append(views, view)
		}
		return ui.WriteData(app.Streams.Out, views)
	case o.Quiet:
		return writeNames(app.Streams.Out, all)
	case len(all) == 0:
		app.Streams.Say("There are no sandboxes. Make one: smolvm claude start")
		return nil
	}
	return app.listTable(all, app.askLive(ctx, boxes, all))
}

// listTable shows the sandboxes for people. A narrow terminal gets fewer columns,
// and is told which.
func (a *App) listTable(all []sandbox.Status, live map[string]liveView) error {
	table, outdated := a.sandboxTable(all, live)
	if a.Streams.OutTTY && !a.global.Plain {
		gone := table.Fit(int(a.Streams.Size().Columns), "AGE", "STOPS", "SESSIONS", "PORTS", "DISK", "AGENT", "DIRECTORY", "MEMORY", "PRESET")
		if len(gone) > 0 {
			defer a.Streams.Say("Too narrow for %s: see --plain, --json, or smolvm info NAME.", strings.Join(gone, ", "))
		}
	}
	if len(outdated) > 0 {
		defer a.Streams.Say("Newer images exist: smolvm update %s", strings.Join(outdated, " "))
	}
	return a.table(table)
}

// sandboxTable names those that are outdated besides.
func (a *App) sandboxTable(all []sandbox.Status, live map[string]liveView) (table *ui.Table, outdated []string) {
	table = ui.NewTable("NAME", "STATE", "SESSIONS", "PRESET", "AGENT", "MEMORY", "DISK", "PORTS", "AGE", "STOPS", "DIRECTORY")
	for _, s := range all {
		v := a.viewOf(s)
		live[s.Name].add(&v)
		agent := v.Agent.Version
		if v.Newer != nil {
			agent += " (outdated)"
			outdated = append(outdated, v.Name)
		}
		table.Add(v.Name, troubledState(v), sessionsText(v.Sessions), v.Preset, agent, size(v.MemoryMiB<<20), size(v.OnDisk), portsText(v), ui.Age(a.Now(), v.Created), v.Idle.short(a.Now()), a.tilde(v.Directory))
	}
	return table, outdated
}

// size is empty where nothing is known.
func size(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return ui.Bytes(bytes)
}

// sessionsText is how many sessions there are; empty for none.
func sessionsText(all []sessionView) string {
	if len(all) == 0 {
		return ""
	}
	return strconv.Itoa(len(all))
}

// portsText are the forwarded ports, HOST:PORT where the two differ.
func portsText(v sandboxView) string {
	var ports []string
	for _, f := range v.Forwards {
		text := strconv.Itoa(f.Guest)
		if f.Host != f.Guest {
			text = fmt.Sprintf("%d:%d", f.Host, f.Guest)
		}
		ports = append(ports, text)
	}
	return strings.Join(ports, ", ")
}

// tilde shortens a path below the user's home.
func (a *App) tilde(path string) string {
	if rest, below := strings.CutPrefix(path, a.UserHome+"/"); below && a.UserHome != "" {
		return "~/" + rest
	}
	return path
}
