package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// maxForks bounds how many sandboxes are made at once: each takes as much memory as the
// first.
const maxForks = 100

// forkOptions are what `fork` was asked for.
type forkOptions struct {
	Name          string
	Count         int
	Secrets, JSON bool
}

func newFork(app *App, run func(context.Context, *App, forkOptions) error) *cobra.Command {
	o := forkOptions{}
	cmd := &cobra.Command{
		Use:   "fork NAME [-n COUNT] [--with-secrets]",
		Short: "Make sandboxes that run on from where a running one is",
		Long: `Make sandboxes that run on from where a running one is: with the same memory,
programs, disk and mounts, under the names NAME-2, NAME-3 and so on. Each has SSH
keys, a machine-id, a host name and random numbers of its own before anybody gets in.
The running one stands still while it is copied, and goes on. What was connected to
it has to connect again; sessions that were left are in all of them. Forwarded ports
and variables that are kept for the agent stay with the first.

A sandbox that was given credentials has them in its memory, and is forked only with
--with-secrets.`,
		Example: `  smolvm fork claude-code
  smolvm fork claude-code -n 3
  smolvm fork claude-code --with-secrets --json`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			if o.Count < 1 || o.Count > maxForks {
				return refuse(fmt.Sprintf("Give a number from 1 to %d.", maxForks), "-n %d is no number of forks", o.Count)
			}
			return run(cmd.Context(), app, o)
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.Count, "count", "n", 1, "`COUNT` of forks")
	flags.BoolVar(&o.Secrets, "with-secrets", false, "credentials in its memory may be in that of the forks")
	jsonFlag(cmd, &o.JSON, "an array of the forks")
	return cmd
}

func runFork(ctx context.Context, app *App, o forkOptions) error {
	boxes, s, err := app.onlyRunning(o.Name, "forked")
	if err != nil {
		return err
	}
	if err := app.Intact(ctx, s.Image); err != nil {
		return err
	}
	fork, err := app.fork(s.Record)
	if err != nil {
		return err
	}
	fork.Secrets = o.Secrets
	if fork.Names, err = forkNames(boxes, o.Name, o.Count); err != nil {
		return err
	}
	if _, err := boxes.Fork(ctx, o.Name, fork); err != nil {
		return err
	}
	app.sayKept(s.Record, fork.Names)
	if !o.JSON {
		app.Streams.Say("forked %s: %s", o.Name, strings.Join(fork.Names, ", "))
		return nil
	}
	views := make([]sandboxView, 0, len(fork.Names))
	for _, name := range fork.Names {
		s, err := boxes.Get(name)
		if err != nil {
			return err
		}
		views = append(views, app.viewOf(s))
	}
	return ui.WriteData(app.Streams.Out, views)
}

// onlyRunning refuses a sandbox that is not running, of which that cannot be done then.
func (a *App) onlyRunning(name, done string) (sandboxes, sandbox.Status, error) {
	boxes, s, err := a.one(name)
	if err == nil && s.State != sandbox.Running {
		err = fault.New(fault.NotRunning, "Start it with smolvm start "+name+".",
			"sandbox %q is %s: only one that runs can be %s", name, s.State, done)
	}
	return boxes, s, err
}

// fork is what a start would take from this computer.
func (a *App) fork(r record.Record) (sandbox.Fork, error) {
	c, err := a.Config()
	if err != nil {
		return sandbox.Fork{}, err
	}
	certificates, err := c.HostCA()
	return sandbox.Fork{Env: c.SessionEnv(r.Egress), CACerts: certificates, Idle: c.IdleStop(r.Preset)}, err
}

// forkNames are names for forks that are free.
func forkNames(boxes sandboxes, of string, count int) (forks []string, err error) {
	taken, err := boxes.Names()
	if err != nil {
		return nil, err
	}
	hint := fmt.Sprintf("Give it a shorter one with smolvm rename, or use smolvm snapshot create %s and smolvm snapshot restore -n.", of)
	for range count {
		name, err := nextWithin(of, taken, hint)
		if err != nil {
			return nil, err
		}
		forks, taken = append(forks, name), append(taken, name)
	}
	return forks, nil
}

// nextWithin is nextName, where that can be a name.
func nextWithin(base string, taken []string, hint string) (string, error) {
	name := nextName(base, taken)
	if record.ValidateName(name) != nil {
		return "", refuse(hint, "the name %s leaves no room for %s", base, strings.TrimPrefix(name, base))
	}
	return name, nil
}

// sayKept says which credentials are kept from a sandbox, and so from what runs on from
// it: the placeholders in its memory are replaced for the first alone.
func (a *App) sayKept(r record.Record, forks []string) {
	if len(r.Credentials) == 0 {
		return
	}
	a.notice("Kept here: %s. For use in %s, stop and start it.", strings.Join(entryNames(r.Credentials), ", "), strings.Join(forks, " or "))
}
