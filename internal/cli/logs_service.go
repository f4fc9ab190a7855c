package cli

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

// Scripts that print a service's log in the guest; $1 is its path. The older half
// is there once the log was full, the newer one once the service was started.
const (
	printLog = `[ ! -f "$1.1" ] || cat "$1.1"; [ ! -f "$1" ] || cat "$1"`
	tailLog  = `[ ! -f "$1.1" ] || cat "$1.1"; exec tail -n +1 -F "$1" 2>/dev/null`
)

// serviceLogs shows the log of a service, which the guest keeps.
func (a *App) serviceLogs(ctx context.Context, boxes sandboxes, s sandbox.Status, out io.Writer, o logsOptions) error {
	if err := hasService(s.Services, o.Service, o.Name); err != nil {
		return err
	}
	conn, err := boxes.Connect(ctx, o.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	script := printLog
	if o.Follow {
		script = tailLog
	}
	status, err := conn.Exec(ctx, supervise.Command{Start: wire.Start{
		Argv: []string{"/bin/sh", "-c", script, "sh", serviceLog(o.Service)}, Dir: "/",
	}}, supervise.Streams{In: strings.NewReader(""), Out: out, Err: a.Streams.Err})
	switch {
	case o.Follow && ctx.Err() != nil:
		return programExit(fault.Interrupted.Exit())
	case o.Follow && fault.CodeOf(err) == fault.NotRunning:
		return nil // the sandbox has ended it
	case err == nil && status != 0:
		err = fault.New(fault.Internal, "Look at it with smolvm exec.", "reading %s ended with status %d", serviceLog(o.Service), status)
	}
	return err
}

// hasService refuses the name of a service that the sandbox has not, and tells those that it has.
func hasService(all []wire.Service, name, box string) error {
	if slices.ContainsFunc(all, func(s wire.Service) bool { return s.Name == name }) {
		return nil
	}
	hint := "It has none."
	if len(all) > 0 {
		var names []string
		for _, s := range all {
			names = append(names, s.Name)
		}
		hint = "It has " + strings.Join(names, ", ") + "."
	}
	return fault.New(fault.NotFound, hint, "sandbox %q has no service %q", box, name)
}
