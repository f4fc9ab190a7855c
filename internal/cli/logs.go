package cli

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// logsOptions are what `logs` was asked for.
type logsOptions struct {
	Name       string
	Follow     bool
	Supervisor bool
	Network    bool
	Service    string // log of this service of the guest, which must run
	JSON       bool
}

// logView is a log in JSON, as it is: nothing is taken out of its lines.
type logView struct {
	Sandbox   string   `json:"sandbox"`
	Log       string   `json:"log"` // console, supervisor, network, or the name of a service
	Lines     []string `json:"lines"`
	Truncated bool     `json:"truncated"` // it was longer than 16 MiB
}

func newLogs(app *App, run func(context.Context, *App, logsOptions) error) *cobra.Command {
	o := logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs [-f] NAME",
		Short: "Show what a sandbox wrote on its console",
		Long: `Show what a sandbox wrote on its console. The oldest part is dropped when it
grows too long. On a terminal, control sequences of the guest are taken out.
With --network it is the log of the sandbox's connections and of what was refused
it, a line of JSON each, of the last 1 to 2 MiB.
With --service it is what one of the sandbox's services wrote, which is kept in
the sandbox and can be read while that runs.

With -f it goes on until the sandbox stops. Ctrl-C ends it with status 130.`,
		Example: `  smolvm logs claude-code
  smolvm logs -f claude-code
  smolvm logs --supervisor claude-code
  smolvm logs --network claude-code
  smolvm logs --service gateway openclaw
  smolvm logs --json claude-code`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on until the sandbox stops")
	cmd.Flags().BoolVar(&o.Supervisor, "supervisor", false, "the log of the sandbox's supervisor instead")
	cmd.Flags().BoolVar(&o.Network, "network", false, "the log of its connections instead, lines of JSON")
	cmd.Flags().StringVar(&o.Service, "service", "", "the log of the sandbox's service `NAME` instead")
	jsonFlag(cmd, &o.JSON, "the log's lines")
	return cmd
}

func runLogs(ctx context.Context, app *App, o logsOptions) error {
	named := 0
	for _, other := range []bool{o.Supervisor, o.Network, o.Service != ""} {
		if other {
			named++
		}
	}
	if named > 1 {
		return refuse("Give one of them.", "--supervisor, --network and --service are different logs")
	}
	if !o.JSON {
		return app.writeLog(ctx, app.logWriter(), o)
	}
	if o.Follow {
		return refuse("Leave one of them out.", "--json writes one document, which -f has no end for")
	}
	text := &capture{limit: capturedMax}
	if err := app.writeLog(ctx, text, o); err != nil {
		return err
	}
	view := logView{Sandbox: o.Name, Log: "console", Lines: linesOf(text.String()), Truncated: text.full}
	switch {
	case o.Supervisor:
		view.Log = "supervisor"
	case o.Network:
		view.Log = "network"
	}
	view.Log = cmp.Or(o.Service, view.Log)
	return ui.WriteData(app.Streams.Out, view)
}

// linesOf splits a text at its line ends, which terminals' are, too.
func linesOf(text string) []string {
	lines := []string{}
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimRight(line, "\r\n"))
	}
	return lines
}

// writeLog writes the log that is asked for.
func (a *App) writeLog(ctx context.Context, out io.Writer, o logsOptions) error {
	boxes, s, err := a.one(o.Name)
	if err != nil {
		return err
	}
	if o.Service != "" {
		return a.serviceLogs(ctx, boxes, s, out, o)
	}
	folder, err := a.folder(o.Name)
	if err != nil {
		return err
	}
	path := folder.Console()
	switch {
	case o.Supervisor:
		path = folder.Log()
	case o.Network:
		path = folder.NetworkLog()
	}
	if !o.Follow || s.State != sandbox.Running {
		return copyLog(out, path)
	}
	conn, err := boxes.Connect(ctx, o.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	return followLog(ctx, out, path, conn.Done())
}

// logWriter is standard output, made safe when it is a terminal.
func (a *App) logWriter() io.Writer {
	if !a.Streams.OutTTY {
		return a.Streams.Out
	}
	return ui.NewCleanWriter(a.Streams.Out)
}

// copyLog writes a log that may not be there yet.
func copyLog(out io.Writer, path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Storage, "", "read the log: %w", err)
	}
	defer file.Close()
	_, err = io.Copy(out, file)
	return err
}

// followLog writes a log and what is added to it, until ended is closed, or ctx
// ends: the status is then that of an interrupt, as of any program that Ctrl-C
// ends, and nothing is said about it. A log that was cut or replaced is read from its start.
func followLog(ctx context.Context, out io.Writer, path string, ended <-chan struct{}) error {
	changes, stop, err := watchFile(path)
	if err != nil {
		return fault.New(fault.Internal, "Leave -f out.", "watch the log: %w", err)
	}
	defer stop()
	t := &tail{out: out, path: path}
	defer t.close()
	for {
		if err := t.read(); err != nil {
			return err
		}
		select {
		case <-changes:
		case <-ended:
			return t.read()
		case <-ctx.Done():
			return programExit(fault.Interrupted.Exit())
		}
	}
}

// tail reads a file that grows.
type tail struct {
	out  io.Writer
	path string
	file *os.File
}

// read writes what came since the last read.
func (t *tail) read() error {
	if err := t.reopen(); err != nil || t.file == nil {
		return err
	}
	_, err := io.Copy(t.out, t.file)
	return err
}

// reopen makes sure that the file at the path is the one that is read, from
// its start where it became shorter.
func (t *tail) reopen() error {
	now, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Storage, "", "read the log: %w", err)
	}
	if t.file != nil {
		then, err := t.file.Stat()
		at, seekErr := t.file.Seek(0, io.SeekCurrent)
		if err == nil && seekErr == nil && os.SameFile(now, then) && at <= now.Size() {
			return nil
		}
		t.close()
	}
	if t.file, err = os.Open(t.path); err != nil {
		return fault.New(fault.Storage, "", "read the log: %w", err)
	}
	return nil
}

func (t *tail) close() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}
