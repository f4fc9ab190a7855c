// Package cli is the command line: one file per command, each with a
// constructor, the options it was asked for, and a run function.
//
// Inputs are arguments, environment and streams; outputs are results on standard
// output, everything else on standard error, and an exit status
// (docs/commands.md). Rooms below are made on first use, so that a command costs
// only what it needs. Nothing is kept on disk here; an interrupted command leaves
// what the rooms it used promise to leave.
package cli

import (
	"context"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/ui"
)

// arches are the architectures of guests.
var arches = []string{"amd64", "arm64"}

// Build is what was fixed when the program was built.
type Build struct {
	Version     string
	Commit      string
	Development bool      // it trusts the development key of its checkout
	Built       time.Time // zero: unknown
	// Agent gives the guest agent for an architecture, and an error where the
	// build has none.
	Agent func(arch string) ([]byte, error)
	// AgentDigest names that agent without unpacking it.
	AgentDigest func(arch string) (string, error)
}

// Outside is all that the program gets from its surroundings.
type Outside struct {
	Streams  *ui.Streams
	Environ  []string // name=value
	UserHome string   // the user's home folder
	// Directory is where the program was started, absolute and without links;
	// empty where that is unknown.
	Directory string
	Self      string           // path of this program
	Presets   fs.FS            // the built-in presets
	Signals   <-chan os.Signal // what the process is sent; may be nil
	Now       func() time.Time
	Rand      io.Reader
}

// App is what the commands share.
type App struct {
	Outside
	Build Build

	global   globals
	signals  *signals
	progress *ui.Progress
	begin    sync.Once
	// wrongPresets is what is wrong with files of the user's folder of presets.
	wrongPresets []error

	soundAt string // path of the Firecracker that was asked and can run sandboxes; empty: none yet

	left string // what to say when the command is interrupted now

	// pass lets others go on that wait for the start that this command makes; nil: nobody does.
	pass func()

	*rooms
}

// globals are the flags that every command has.
type globals struct {
	Plain      bool
	Progress   string
	Manifest   string
	TrustedKey []string
	PresetFile []string
	// Firecracker is the program file that a flag names.
	Firecracker string
}

// New makes the App of a process. It does no work.
func New(outside Outside, build Build) *App {
	app := &App{Outside: outside, Build: build}
	app.rooms = app.openRooms()
	return app
}

// Main runs the command line and returns the exit status of the process.
func (a *App) Main(args []string) int {
	ctx, signals, stop := watch(context.Background(), a.Signals, a.Streams)
	a.signals = signals
	a.global.PresetFile = presetFiles(args)
	root, err := newRoot(a)
	cmd := root
	if err == nil {
		root.SetArgs(args)
		cmd, err = root.ExecuteContextC(ctx)
		err = interrupted(ctx, unwritten(err), a.left)
	}
	if a.progress != nil {
		a.progress.Close()
	}
	stop() // nothing else writes from here on
	a.report(cmd, args, err)
	return status(cmd, err)
}

// Progress is where work that takes long reports; it is begun on first use.
func (a *App) Progress() *ui.Progress {
	a.begin.Do(func() { a.progress = ui.NewProgress(a.Streams, ui.Style(a.global.Progress), a.Now) })
	return a.progress
}

// whenInterrupted sets what is said when ctx ends before the returned function is
// called.
func (a *App) whenInterrupted(ctx context.Context, hint string) (done func()) {
	a.left = hint
	return func() {
		if ctx.Err() == nil {
			a.left = ""
		}
	}
}

// passOn lets others go on that wait for this command's start; calling it twice does
// nothing.
func (a *App) passOn() {
	if a.pass != nil {
		a.pass()
	}
}

// refuse makes the fault of a command line that cannot be honoured.
func refuse(hint, format string, args ...any) error {
	return fault.New(fault.Usage, hint, format, args...)
}

// table writes a table as a command's result: plainly where that was asked for, and
// where a terminal is so narrow that it would break the lines.
func (a *App) table(t *ui.Table) error { return a.tableTo(a.Streams.Out, t) }

// tableTo writes it as a part of such a result.
func (a *App) tableTo(out io.Writer, t *ui.Table) error {
	if a.global.Plain || a.Streams.OutTTY && t.Width() > int(a.Streams.Size().Columns) {
		return t.WritePlain(out)
	}
	return t.Write(out)
}

// jsonFlag adds --json to a command; data names what it gives.
func jsonFlag(cmd *cobra.Command, value *bool, data string) {
	cmd.Flags().BoolVar(value, "json", false, "write one JSON envelope on standard output: "+data)
}
