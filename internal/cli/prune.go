package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/store"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/internal/ui"
)

// pruneOptions are what `prune` was asked for.
type pruneOptions struct {
	DryRun bool
	All    bool
	Keep   int64 // bytes; -1: not given
	Yes    bool
	JSON   bool
}

func newPrune(app *App, run func(context.Context, *App, pruneOptions) error) *cobra.Command {
	o := pruneOptions{Keep: -1}
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free the space of images that nothing needs any more",
		Long: `Free the space of what nothing needs any more: images of releases that no
catalogue has now, files that no image shows, downloads that were left alone for
a day, and what killed commands left. With --all also images that could be
started but that no sandbox or snapshot uses.

What a sandbox stands on, running or stopped, always stays, and so does what
another command is at work on. On a terminal, what would go is shown and asked
about; --yes answers. Without a terminal nothing is asked.`,
		Example: `  smolvm prune --dry-run
  smolvm prune --all --yes
  smolvm prune --keep-storage 10G`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would go")
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "all that no sandbox and no command needs")
	cmd.Flags().Var(keepFlag{sizeFlag{&o.Keep}}, "keep-storage", "stop when so much is left, the least recently used first, such as 10G")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask")
	jsonFlag(cmd, &o.JSON, "what went, or with --dry-run would go")
	return cmd
}

// keepFlag is a size that may be nothing, with or without a unit.
type keepFlag struct{ sizeFlag }

func (f keepFlag) Set(text string) (err error) {
	*f.bytes = 0
	if text != "0" {
		*f.bytes, err = config.ParseSize(text)
	}
	return err
}

func (f keepFlag) String() string {
	if f.bytes == nil || *f.bytes < 0 {
		return ""
	}
	return f.sizeFlag.String()
}

func runPrune(ctx context.Context, app *App, o pruneOptions) error {
	options, err := app.pruning(o)
	if err != nil {
		return err
	}
	if app.Streams.Interactive() && !o.Yes && !o.DryRun {
		if yes, err := app.mayPrune(ctx, options, o.JSON); !yes {
			return err
		}
	}
	defer app.whenInterrupted(ctx, "What is left is removed by the next prune.")()
	pruned, err := app.prune(ctx, options)
	if err != nil {
		return err
	}
	return app.showPruned(pruned, o.DryRun, o.JSON)
}

// pruning says what may go.
func (a *App) pruning(o pruneOptions) (store.PruneOptions, error) {
	options := store.PruneOptions{
		Holders: a.holders, All: o.All, DryRun: o.DryRun, Keep: o.Keep, Now: a.Now(),
	}
	var err error
	options.Current, options.CurrentKeys, err = a.Current()
	return options, err
}

// prune prunes, and says that it is at work where that takes long.
func (a *App) prune(ctx context.Context, o store.PruneOptions) (store.Pruned, error) {
	done := event.Span(a.Progress(), a.Now, event.Prune, "")
	pruned, err := a.Prune(ctx, o)
	done(0)
	return pruned, err
}

// mayPrune shows what would go and asks.
func (a *App) mayPrune(ctx context.Context, o store.PruneOptions, json bool) (bool, error) {
	o.DryRun = true
	would, err := a.prune(ctx, o)
	switch {
	case err != nil:
		return false, err
	case len(would.Items) == 0:
		return true, nil // there is nothing to ask about
	case !json:
		if err := a.table(a.prunedTable(would)); err != nil {
			return false, err
		}
	}
	return a.Streams.Confirm(ctx, fmt.Sprintf("Remove %s and free %s?", things(would), ui.Bytes(would.Freed)))
}

// things counts what goes: "2 images, 5 files and 1 download".
func things(p store.Pruned) string {
	var parts []string
	for _, part := range []struct {
		n         int
		one, many string
	}{
		{len(p.Images), "image", "images"},
		{p.Objects, "file", "files"},
		{p.Partials, "unfinished download", "unfinished downloads"},
		{len(p.Items) - len(p.Images) - p.Objects - p.Partials, "left-over", "left-overs"},
	} {
		switch {
		case part.n == 1:
			parts = append(parts, "1 "+part.one)
		case part.n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.many))
		}
	}
	if len(parts) < 2 {
		return strings.Join(parts, "")
	}
	return strings.Join(parts[:len(parts)-1], ", ") + " and " + parts[len(parts)-1]
}

func (a *App) prunedTable(p store.Pruned) *ui.Table {
	table := ui.NewTable("KIND", "NAME", "FREES")
	for _, item := range p.Items {
		table.Add(item.Kind, item.Name, ui.Bytes(item.Bytes))
	}
	return table
}

// showPruned ends prune and image rm.
func (a *App) showPruned(p store.Pruned, dryRun, json bool) error {
	if json {
		return ui.WriteData(a.Streams.Out, p)
	}
	a.tellHeld(p.Held)
	if len(p.Items) == 0 {
		a.Streams.Say("There is nothing to remove.")
	} else if err := a.table(a.prunedTable(p)); err != nil {
		return err
	}
	freed := "freed"
	if dryRun {
		freed = "would free"
	}
	_, err := fmt.Fprintf(a.Streams.Out, "%s %s\n", freed, ui.Bytes(p.Freed))
	return err
}

// tellHeld says once for each holder what stays because of it.
func (a *App) tellHeld(held []store.Held) {
	var order []string
	names := map[string][]string{}
	for _, h := range held {
		if names[h.By] == nil {
			order = append(order, h.By)
		}
		if !slices.Contains(names[h.By], h.Name) {
			names[h.By] = append(names[h.By], h.Name)
		}
	}
	for _, by := range order {
		a.Streams.Say("Kept for %s: %s", by, strings.Join(names[by], ", "))
	}
}

// pruneStore removes what nothing needs.
func (a *App) pruneStore(ctx context.Context, o store.PruneOptions) (store.Pruned, error) {
	images, err := a.openStore()
	if err != nil {
		return store.Pruned{}, err
	}
	return images.Prune(ctx, o)
}

// current are the releases of all catalogues that are remembered, and the keys of
// the assets that their images consist of. Where none can be read it is the newest
// release in the cache: too much stays rather than too little.
func (a *App) current() (releases, keys []string, err error) {
	c, err := a.Config()
	if err != nil {
		return nil, nil, err
	}
	documents, err := trust.NewMemory(filepath.Join(c.Home, "trust"), a.Now).Documents()
	if err != nil {
		return nil, nil, err
	}
	for _, document := range documents {
		m, err := manifest.Parse(document.Raw)
		if err != nil {
			continue
		}
		releases = append(releases, m.Release)
		for _, row := range m.Rows {
			for _, part := range parts(row) {
				keys = append(keys, part.Index.SHA256)
			}
		}
	}
	own := imagebuild.LocalRelease // what was built here is as current as anything
	if len(releases) > 0 {
		return append(releases, own), keys, nil
	}
	images, err := a.Cached()
	images = slices.DeleteFunc(images, func(i store.Image) bool { return i.Release == own })
	if err != nil || len(images) == 0 {
		return nil, nil, err
	}
	return []string{images[len(images)-1].Release, own}, nil, nil
}
