package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/ui"
)

// localConfig is the configuration that holds in this directory: a project's file
// counts where it is trusted, and is only named where it is not.
func (a *App) localConfig() (config.Config, error) {
	c, err := a.Config()
	if err != nil {
		return c, err
	}
	p, there, err := c.ReadProject(a.Directory)
	switch {
	case err != nil:
		a.warn("%s is not used: %v", p.File, err)
		return c, nil
	case !there:
		return c, nil
	case !p.Trusted:
		a.notice("%s is not used: it is not trusted. Look at it, then: smolvm config trust project", p.File)
		return c, nil
	}
	return c.WithProject(p), nil
}

// projectConfig is the configuration for a new sandbox of this directory. A
// project's file that the user has not trusted is shown and asked about on a
// terminal, and refused elsewhere.
func (a *App) projectConfig(ctx context.Context, without bool) (config.Config, error) {
	c, err := a.Config()
	if err != nil || without {
		return c, err
	}
	p, there, err := c.ReadProject(a.Directory)
	switch {
	case err != nil || !there:
		return c, err
	case p.Trusted:
		return c.WithProject(p), nil
	case !a.Streams.Interactive():
		return c, fault.New(fault.Trust,
			"Look at it, then trust its content with smolvm config trust project, or leave it out with --no-project.",
			"%s sets what a sandbox gets, and its content is not trusted", p.File)
	}
	a.showProject(p)
	yes, err := a.Streams.Confirm(ctx, "Trust this content from now on?")
	switch {
	case err != nil:
		return c, err
	case !yes:
		return c, fault.New(fault.Trust, "Leave it out with --no-project.", "the content of %s is not trusted", p.File)
	}
	if _, err := c.TrustProject(ctx, p, a.Now()); err != nil {
		return c, err
	}
	return c.WithProject(p), nil
}

// shownLines is how much of a project's file is shown: what has more is looked at
// with an editor.
const shownLines = 200

func (a *App) showProject(p config.Project) {
	lines := strings.Split(strings.TrimRight(ui.CleanLines(p.Text), "\n"), "\n")
	more := len(lines) - shownLines
	a.Streams.Say("%s says:\n\n  %s\n", p.File, strings.Join(lines[:min(len(lines), shownLines)], "\n  "))
	if more > 0 {
		a.Streams.Say("  and %d lines more\n", more)
	}
}

// projectOptions are what `config trust project` was asked for.
type projectOptions struct {
	Directory string // empty: this one
	Remove    bool
	Yes       bool
	JSON      bool
}

// projectView is a project's file in JSON.
type projectView struct {
	File    string `json:"file"`
	SHA256  string `json:"sha256"` // of its content; empty: there is none
	Trusted bool   `json:"trusted"`
	Changed bool   `json:"changed"` // false: it was so already
}

func newTrustProject(app *App, run func(context.Context, *App, projectOptions) error) *cobra.Command {
	o := projectOptions{}
	cmd := &cobra.Command{
		Use:   "project [DIRECTORY]",
		Short: "Trust a directory's " + config.ProjectFile + " as it is now",
		Long: `Trust the ` + config.ProjectFile + ` of a directory (default this one), with exactly the content that
it has now. Until then, and again when one byte of it changed, it is not used: who
can write into the directory can write it. It may set cpus, memory, disk and env.`,
		Example: `  smolvm config trust project
  smolvm config trust project --yes ~/src/project
  smolvm config trust project --remove`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Directory = strings.Join(args, "")
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVar(&o.Remove, "remove", false, "trust it no longer")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not show it and ask")
	jsonFlag(cmd, &o.JSON, "the file, and whether anything changed")
	return cmd
}

func runTrustProject(ctx context.Context, app *App, o projectOptions) error {
	c, err := app.Config()
	if err != nil {
		return err
	}
	dir, err := app.projectFolder(o.Directory)
	if err != nil {
		return err
	}
	p, there, err := c.ReadProject(dir)
	if o.Remove {
		changed, err := c.DistrustProject(ctx, p.File)
		return app.trustedProject(projectView{File: p.File, SHA256: p.SHA256, Changed: changed}, o.JSON, err)
	}
	switch {
	case err != nil:
		return err
	case !there:
		return fault.New(fault.NotFound, "Name the directory that has one.", "there is no %s", p.File)
	case !p.Trusted && !o.Yes && !o.JSON && app.Streams.Interactive():
		app.showProject(p)
		yes, err := app.Streams.Confirm(ctx, "Trust this content from now on?")
		if err != nil {
			return err
		}
		if !yes {
			return fault.New(fault.Interrupted, "", "the content of %s is not trusted", p.File)
		}
	}
	changed, err := c.TrustProject(ctx, p, app.Now())
	return app.trustedProject(projectView{File: p.File, SHA256: p.SHA256, Trusted: true, Changed: changed}, o.JSON, err)
}

// projectFolder is a directory as the program sees its own: absolute and without links.
func (a *App) projectFolder(named string) (string, error) {
	if named == "" {
		if a.Directory == "" {
			return "", refuse("Name one.", "this directory is not there any more")
		}
		return a.Directory, nil
	}
	dir, err := filepath.Abs(named)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", fault.New(fault.NotFound, "Check the path.", "find directory %s: %w", ui.Clean(named), err)
	}
	return dir, nil
}

func (a *App) trustedProject(view projectView, json bool, err error) error {
	if err != nil {
		return err
	}
	if json {
		return ui.WriteData(a.Streams.Out, view)
	}
	verb := map[[2]bool]string{
		{true, true}: "is trusted as it is now", {true, false}: "was trusted already",
		{false, true}: "is no longer trusted", {false, false}: "was not trusted",
	}[[2]bool{view.Trusted, view.Changed}]
	a.Streams.Say("%s", fmt.Sprintf("%s %s.", view.File, verb))
	return nil
}
