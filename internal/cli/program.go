package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"strings"

	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// capturedMax bounds what --json keeps of each of a program's two outputs.
const capturedMax = 16 << 20

// terminalChoice says whether a program gets a terminal of its own.
type terminalChoice int

const (
	whenInteractive terminalChoice = iota // when input and output are terminals
	never
	always
)

// endOfTyping is Ctrl-D: once to hand over a line that has no end, once for the end.
const endOfTyping = "\x04\x04"

// program is something to run in a sandbox with the user's streams.
type program struct {
	start    wire.Start
	terminal terminalChoice
	sshAgent string // socket of the user's SSH agent, to be forwarded
	empty    bool   // it gets no input
	detach   []byte // keys that leave it running; none: it is not kept
}

// ended is the data of --json for a program that ran.
type ended struct {
	Sandbox    string `json:"sandbox"`
	ExitStatus int    `json:"exit_status"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	Truncated  bool   `json:"truncated"` // an output was longer than 16 MiB
}

// attach runs p in the sandbox and returns its exit status. With a terminal at
// both ends it gets a terminal, which follows the size of the user's; otherwise
// its three streams are three pipes, and signals are passed on to it.
func (a *App) attach(ctx context.Context, conn session, p program) (int, error) {
	streams := supervise.Streams{In: a.Streams.In, Out: a.Streams.Out, Err: a.Streams.Err}
	switch {
	case p.empty:
		streams.In = strings.NewReader("")
		return a.attachPipes(ctx, conn, p, streams)
	case p.terminal == always && !a.Streams.Interactive():
		return a.attachForced(ctx, conn, p, streams)
	case p.terminal == never || !a.Streams.Interactive():
		return a.attachPipes(ctx, conn, p, streams)
	}
	restore, err := a.Streams.Raw()
	if err != nil {
		return 0, err
	}
	var unseen []string
	defer func() {
		restore()
		a.sayAddresses(unseen)
	}()
	sizes, stop := a.Streams.Resizes()
	defer stop()
	streams.Resize = sizes
	aside := ui.NewAside(streams.In, streams.Out, a.Streams.Size, a.Now)
	terminal := ui.NewTerminal(aside)
	streams.In, streams.Out = aside, terminal
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if len(p.detach) > 0 {
		streams.In = newKeyboard(aside, p.detach, func() { cancel(errDetached) })
	}
	names, stopSignals := a.passSignals(!passEnding)
	defer stopSignals()
	streams.Signals = names
	stopBrowsing := a.browse(ctx, conn, &streams, aside)
	status, err := conn.Exec(ctx, supervise.Command{Start: a.localized(p.start), SSHAgentAt: p.sshAgent, TTY: true, Term: a.Streams.Term, Size: a.Streams.Size()}, streams)
	unseen = stopBrowsing()
	giveBack(a.Streams.Out, terminal, errors.Is(err, errDetached))
	return status, err
}

// giveBack leaves the terminal as a shell expects it. What a program that was left
// shows on the main screen stays there, above.
func giveBack(out io.Writer, terminal *ui.Terminal, detached bool) {
	alternate := terminal.Alternate()
	undo := terminal.Undo()
	switch {
	case detached && !alternate:
		undo += "\x1b[9999;1H\r\n"
	case detached:
		undo += "\r\n"
	}
	_, _ = io.WriteString(out, undo) // a terminal that is gone needs nothing
}

func (a *App) attachPipes(ctx context.Context, conn session, p program, streams supervise.Streams) (int, error) {
	names, detach := a.passSignals(passEnding)
	defer detach()
	streams.Signals = names
	stopBrowsing := a.browse(ctx, conn, &streams, nil)
	status, err := conn.Exec(ctx, supervise.Command{Start: a.localized(p.start), SSHAgentAt: p.sshAgent}, streams)
	a.sayAddresses(stopBrowsing())
	return status, err
}

// attachForced gives a program a terminal although there is none at one end here.
// What comes in is typed, and its end too.
func (a *App) attachForced(ctx context.Context, conn session, p program, streams supervise.Streams) (int, error) {
	restore, err := a.Streams.Raw() // where input is a terminal and output is not
	if err != nil {
		return 0, err
	}
	defer restore()
	names, detach := a.passSignals(passEnding)
	defer detach()
	streams.Signals = names
	if !a.Streams.InTTY {
		streams.In = io.MultiReader(streams.In, strings.NewReader(endOfTyping))
	}
	return conn.Exec(ctx, supervise.Command{
		Start: a.localized(p.start), SSHAgentAt: p.sshAgent, TTY: true, Term: cmp.Or(a.Streams.Term, "dumb"), Size: a.Streams.Size(),
	}, streams)
}

// localized adds the user's locale; the guest keeps what it has installed.
func (a *App) localized(start wire.Start) wire.Start {
	env := maps.Clone(start.Env)
	for _, pair := range a.Environ {
		name, value, _ := strings.Cut(pair, "=")
		if value == "" || name != "LANG" && name != "LANGUAGE" && !strings.HasPrefix(name, "LC_") {
			continue
		}
		if env == nil {
			env = map[string]string{}
		}
		env[name] = value
	}
	start.Env = env
	return start
}

// attachJSON runs p with its outputs captured, for --json.
func (a *App) attachJSON(ctx context.Context, conn session, name string, p program) (ended, error) {
	out, errs := &capture{limit: capturedMax}, &capture{limit: capturedMax}
	in := a.Streams.In
	if p.empty {
		in = strings.NewReader("")
	}
	status, err := a.attachPipes(ctx, conn, p, supervise.Streams{In: in, Out: out, Err: errs})
	return ended{
		Sandbox: name, ExitStatus: status, Stdout: out.String(), Stderr: errs.String(),
		Truncated: out.full || errs.full,
	}, err
}

// capture keeps the first bytes written to it and drops the rest.
type capture struct {
	bytes.Buffer
	limit int
	full  bool
}

func (c *capture) Write(b []byte) (int, error) {
	if room := c.limit - c.Len(); len(b) > room {
		c.full = true
		c.Buffer.Write(b[:room])
		return len(b), nil
	}
	return c.Buffer.Write(b)
}

// finish connects to a running sandbox, runs p there and hands its exit status
// back: as this process's own, and with json in an envelope too.
func (a *App) finish(ctx context.Context, boxes sandboxes, name string, p program, json bool) error {
	conn, err := boxes.Connect(ctx, name)
	if err != nil {
		return err
	}
	defer conn.Close()
	if json {
		result, err := a.attachJSON(ctx, conn, name, p)
		if err == nil {
			err = ui.WriteData(a.Streams.Out, result)
		}
		return exitOf(result.ExitStatus, err)
	}
	status, err := a.attach(ctx, conn, p)
	return exitOf(status, err)
}

// exitOf is the error for a program's end: none for status 0.
func exitOf(status int, err error) error {
	if err == nil && status != 0 {
		return programExit(status)
	}
	return err
}

// duplex joins the standard streams to the one stream of a proxy command.
type duplex struct {
	io.Reader
	io.Writer
}
