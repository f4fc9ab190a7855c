package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/treecopy"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// copyOptions are what `cp` was asked for.
type copyOptions struct {
	Sources []string
	Dest    string
	User    string
	JSON    bool
}

func newCopy(app *App, run func(context.Context, *App, copyOptions) error) *cobra.Command {
	o := copyOptions{}
	cmd := &cobra.Command{
		Use:   "cp [FLAGS] SOURCE... NAME:PATH | cp [FLAGS] NAME:PATH... DEST",
		Short: "Copy files into a running sandbox or out of it",
		Long: `Copy files and folders, with all in them, into a running sandbox or out of it.
One side is NAME:PATH, a path in the sandbox: a relative one is below /workspace,
~/ is the user's home. What goes into a folder that is there keeps its name; else
the last word of the destination is its new name. Several sources need a folder
that is there. SOURCE/. is what is in a folder.
A path of this computer with a colon in it is written ./PATH.

Permissions, times and symbolic links are kept, holes stay holes. Owners and
set-user-id bits are not, and devices and pipes are left out, which is said. A link
that is named is followed; links below are copied as they are. Nothing that a
sandbox sends gets out of the destination. A file appears under its name when it is
whole.

- is standard input, or standard output: one file's content.`,
		Example: `  smolvm cp notes.txt claude-code:
  smolvm cp -u root hosts claude-code:/etc/hosts
  smolvm cp claude-code:/workspace/report ./out
  smolvm cp claude-code:src/. .
  smolvm cp claude-code:~/.bashrc - | less
  tar c . | smolvm cp - claude-code:/tmp/all.tar`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return refuse("Usage: "+cmd.UseLine(), "cp needs a source and a destination")
			}
			return nil
		},
		ValidArgsFunction: app.completeCopy,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Sources, o.Dest = args[:len(args)-1], args[len(args)-1]
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVarP(&o.User, "user", "u", wire.AgentUser, "user in the sandbox: agent or root")
	jsonFlag(cmd, &o.JSON, "what was copied, and what was left out")
	return cmd
}

// completeCopy offers running sandboxes, each with its colon, besides files.
func (a *App) completeCopy(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(begun, "/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.completeAll(sandbox.Running)(cmd, nil, begun)
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

// guestPath is NAME:PATH; Name is empty for a path of this computer.
type guestPath struct{ Name, Path string }

func parsePath(word string) guestPath {
	name, path, ok := strings.Cut(word, ":")
	if !ok || record.ValidateName(name) != nil {
		return guestPath{Path: word}
	}
	if path == "" {
		path = wire.Workspace
	}
	return guestPath{name, path}
}

// copyView is the data of `cp --json`, over all sources.
type copyView struct {
	Sandbox string `json:"sandbox"`
	treecopy.Summary
}

func (v *copyView) add(s treecopy.Summary) {
	v.Files, v.Folders, v.Links, v.Bytes = v.Files+s.Files, v.Folders+s.Folders, v.Links+s.Links, v.Bytes+s.Bytes
	v.Skipped = append(v.Skipped, s.Skipped...)
}

func runCopy(ctx context.Context, app *App, o copyOptions) error {
	name, err := o.sandbox()
	if err == nil {
		err = checkUser(o.User)
	}
	if err == nil {
		err = o.sourcesThere()
	}
	if err == nil {
		err = o.namesDiffer()
	}
	if err != nil {
		return err
	}
	boxes, err := app.runningSandbox(name)
	if err != nil {
		return err
	}
	conn, err := boxes.Connect(ctx, name)
	if err != nil {
		return err
	}
	defer conn.Close()
	view := copyView{Sandbox: name, Summary: treecopy.Summary{Skipped: []string{}}}
	for _, source := range o.Sources {
		c := &copying{app: app, conn: conn, user: o.User, from: parsePath(source), to: o.destination()}
		sum, err := c.run(ctx)
		view.add(sum)
		if err != nil {
			return c.explain(ctx, err)
		}
	}
	return app.copied(o, view)
}

// sandbox is the one that all words name, on one side only.
func (o copyOptions) sandbox() (string, error) {
	to := parsePath(o.Dest)
	name := to.Name
	for _, source := range o.Sources {
		from := parsePath(source)
		switch {
		case from.Name != "" && to.Name != "":
			return "", refuse("Copy by way of this computer: smolvm cp A:FILE - | smolvm cp - B:FILE.", "both sides are in sandboxes")
		case from.Name == "" && to.Name == "":
			return "", refuse("Write NAME:PATH for a path in a sandbox.", "neither %q nor %q names a sandbox", source, o.Dest)
		case name != "" && from.Name != "" && from.Name != name:
			return "", refuse("Copy from one sandbox at a time.", "the sources are in the sandboxes %q and %q", name, from.Name)
		case from.Name == "" && source == "-" && len(o.Sources) > 1, o.Dest == "-" && len(o.Sources) > 1:
			return "", refuse("Give one source.", "- stands for one file")
		case from.Name != "":
			name = from.Name
		}
	}
	return name, nil
}

// sourcesThere refuses files of this computer that are not there, before anything
// is copied.
func (o copyOptions) sourcesThere() error {
	for _, source := range o.Sources {
		if parsePath(source).Name != "" || source == "-" {
			continue
		}
		if _, err := os.Stat(source); err != nil {
			return fault.New(fault.NotFound, "", "copy %q: %w", source, reasonOf(err))
		}
	}
	return nil
}

// namesDiffer refuses sources of which one would replace another.
func (o copyOptions) namesDiffer() error {
	seen := map[string]string{}
	for _, source := range o.Sources {
		name := base(parsePath(source).Path)
		if other, taken := seen[name]; taken && name != treecopy.Contents {
			return refuse("Copy them one after the other, under different names.", "%q and %q would both be %q in %q", other, source, name, o.Dest)
		}
		seen[name] = source
	}
	return nil
}

// destination is where sources go. Several go into a folder, which a slash at the
// end says: none of them may take its name, or the next would replace it.
func (o copyOptions) destination() guestPath {
	to := parsePath(o.Dest)
	if len(o.Sources) > 1 && !strings.HasSuffix(to.Path, "/") {
		to.Path += "/"
	}
	return to
}

// copied reports the result.
func (a *App) copied(o copyOptions, view copyView) error {
	if o.JSON && o.Dest != "-" {
		return ui.WriteData(a.Streams.Out, view)
	}
	for _, text := range view.Skipped {
		a.Streams.Say("left out: %s", text)
	}
	if a.Streams.ErrTTY && o.Dest != "-" {
		a.Streams.Say("copied %s", view.text())
	}
	return nil
}

func (v copyView) text() string {
	text := fmt.Sprintf("%d files", v.Files)
	if v.Files == 1 {
		text = "1 file"
	}
	return text + ", " + ui.Bytes(v.Bytes)
}

// explain says what a failed copy was about, and what may help.
func (c *copying) explain(ctx context.Context, err error) error {
	var known *fault.Fault
	var theirs *treecopy.RemoteError
	switch {
	case ctx.Err() != nil || errors.As(err, &known):
		return err
	case errors.Is(err, treecopy.ErrNoFile):
		return refuse(fmt.Sprintf("Use smolvm exec %s tar -c -C %s .", c.from.Name, shellQuote(c.from.Path)),
			"copy %s to standard output: it is a folder or a link", c.from)
	case errors.Is(err, treecopy.ErrCut):
		return fault.New(fault.NotRunning, "If the sandbox still runs, an older smolvm started it: stop it and start it again.",
			"copy %s to %s: %w", c.from, c.to, err)
	case errors.As(err, &theirs) && strings.HasSuffix(theirs.Error(), syscall.EACCES.Error()):
		return fault.New(fault.Storage, fmt.Sprintf("Add -u root: %s may not there.", c.user), "copy %s to %s: in the sandbox: %w", c.from, c.to, err)
	case errors.As(err, &theirs):
		return fault.New(fault.NotFound, "", "copy %s to %s: in the sandbox: %w", c.from, c.to, err)
	}
	return fault.New(fault.Storage, "", "copy %s to %s: %w", c.from, c.to, err)
}

func (p guestPath) String() string {
	if p.Name == "" {
		return p.Path
	}
	return p.Name + ":" + p.Path
}

// base is what a copy of a path is called: the name of what it leads to, or
// treecopy.Contents.
func base(path string) string {
	if path == "." || strings.HasSuffix(path, "/.") {
		return treecopy.Contents
	}
	name := filepath.Base(path)
	if name == ".." || name == "/" || name == "~" {
		return treecopy.Contents
	}
	return name
}
