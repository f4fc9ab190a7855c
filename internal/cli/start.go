package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

func newStart(app *App, run func(context.Context, *App, startOptions) error) *cobra.Command {
	o := startOptions{}
	cmd := &cobra.Command{
		Use:   "start [FLAGS] NAME [-- AGENT ARGS...]",
		Short: "Start a sandbox that is stopped",
		Long: `Start a sandbox that is stopped, with the files it had. One that runs already is
left as it is. Attaching and exit status are those of 'smolvm claude start'.`,
		Example: `  smolvm start claude-code
  smolvm start --no-attach claude-code
  smolvm start claude-code -- --continue`,
		Args:              nameThenArgs,
		ValidArgsFunction: app.completeFirst(sandbox.Stopped),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Args = args[0], afterDash(cmd, args)
			o.Wish.read(cmd)
			return run(cmd.Context(), app, o)
		},
	}
	startFlags(cmd, &o)
	return cmd
}

func runStart(ctx context.Context, app *App, o startOptions) error {
	attach, err := app.attaches(o)
	if err != nil {
		return err
	}
	if _, err := app.sshAgent(o.SSHAgent); err != nil {
		return err
	}
	if o.Record, err = app.recording(o.Record); err != nil {
		return err
	}
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	return app.startAgain(ctx, boxes, s, attach, o)
}

// startAgain starts a sandbox that there is, unless it runs already.
func (a *App) startAgain(ctx context.Context, boxes sandboxes, s sandbox.Status, attach bool, o startOptions) error {
	if err := recordable(s, o.Record); err != nil {
		return err
	}
	if s.State != sandbox.Running {
		r := restart{app: a, boxes: boxes, sandbox: s, options: o}
		if err := r.run(ctx); err != nil {
			return err
		}
		a.tellNewer(s)
	} else if err := a.goOnRunning(ctx, boxes, s, o); err != nil {
		return err
	}
	return a.started(ctx, boxes, s.Name, attach, o)
}

// startGiving starts a sandbox with what its agent gets now.
func (a *App) startGiving(ctx context.Context, boxes sandboxes, s sandbox.Status, o startOptions) error {
	g, c, err := a.giftOf(ctx, s, o.Give, false)
	if err != nil {
		return err
	}
	if o.Give.NoCredentials {
		g.sources = s.Credentials // for the next start
	}
	g.tell(a)
	_, err = boxes.Start(ctx, s.Name, g.into(sandbox.StartOptions{
		Timeout: o.Timeout, Idle: c.IdleStop(s.Preset), Keep: o.Keep, LoginHome: a.loginHome(c, s.Preset),
		Capture: o.Record,
	}))
	return err
}

// giftOf is what the agent of a sandbox gets, and the configuration that says so. One
// that runs keeps what its start kept from it.
func (a *App) giftOf(ctx context.Context, s sandbox.Status, o giveOptions, runs bool) (gift, config.Config, error) {
	c, err := a.localConfig()
	if err != nil {
		return gift{}, c, err
	}
	p, err := a.presetNamed(s.Preset)
	if err != nil {
		return gift{}, c, err
	}
	boxes, err := a.Sandboxes()
	if err != nil {
		return gift{}, c, err
	}
	if o.Kept, err = boxes.Environment(s.Name); err != nil {
		return gift{}, c, err
	}
	st := standing{network: s.Network && s.Egress.Kind() != egress.Off, policy: s.Egress, runs: runs}
	if !runs {
		st.remembered = s.Credentials
	}
	g, err := a.giftFor(ctx, c, p, o, st)
	return g, c, err
}

// goOnRunning makes sure that a sandbox that runs does so for a while, and gives it
// what the flags name. One that is just being stopped, as nobody used it, is started
// again.
func (a *App) goOnRunning(ctx context.Context, boxes sandboxes, s sandbox.Status, o startOptions) error {
	err := a.wake(ctx, boxes, s.Name, o.Keep)
	if fault.CodeOf(err) == fault.NotRunning {
		if err := boxes.Stop(ctx, s.Name, defaultGrace); err != nil { // waits for its end
			return err
		}
		return a.startGiving(ctx, boxes, s, o)
	}
	if err != nil || !o.Give.any() {
		return err
	}
	return a.giveRunning(ctx, boxes, s, o.Give)
}

// wake begins the time anew after which a sandbox stops that nobody uses.
func (a *App) wake(ctx context.Context, boxes sandboxes, name string, keep *bool) error {
	conn, err := boxes.Connect(ctx, name)
	if err != nil {
		return err
	}
	defer conn.Close()
	status, err := conn.Status(ctx)
	if err != nil {
		return err
	}
	if status.Idle == nil { // started by an earlier smolvm, which stops none
		if keep != nil && !*keep {
			return fault.New(fault.Conflict, fmt.Sprintf("Restart it: smolvm stop %s, then smolvm start %s.", name, name),
				"sandbox %q was started by an earlier smolvm, which stops no sandbox that nobody uses", name)
		}
		return nil
	}
	_, err = conn.Wake(ctx, keep)
	return err
}

// giveRunning gives a sandbox that runs what the flags name, for the sessions that
// begin from now on.
func (a *App) giveRunning(ctx context.Context, boxes sandboxes, s sandbox.Status, o giveOptions) error {
	if err := refuseRunning(o, s.Name); err != nil {
		return err
	}
	g, _, err := a.giftOf(ctx, s, o, true)
	if err != nil {
		return err
	}
	conn, err := boxes.Connect(ctx, s.Name)
	if err != nil {
		return err
	}
	defer conn.Close()
	note, err := conn.Give(ctx, g.credentials)
	if err != nil {
		return err
	}
	g.tell(a)
	if note != "" {
		a.notice("%s", note)
	}
	return nil
}

// started ends a start: with the agent in front of the user, or with the
// sandbox's name as the result.
func (a *App) started(ctx context.Context, boxes sandboxes, name string, attach bool, o startOptions) error {
	a.passOn()
	s, err := boxes.Get(name)
	if err != nil {
		return err
	}
	if err := a.sayForwards(ctx, boxes, s); err != nil {
		return err
	}
	if attach {
		if err := a.awaitServices(ctx, boxes, s); err != nil {
			return err
		}
		a.Progress().Close()
		p := agent(s, o.Args)
		if p.sshAgent, err = a.sshAgent(o.SSHAgent); err != nil {
			return err
		}
		return a.finishAgent(ctx, boxes, s, p, o.JSON, o.Wish.with(o.Args))
	}
	if o.JSON {
		view := a.viewOf(s)
		a.askLive(ctx, boxes, []sandbox.Status{s})[s.Name].add(&view)
		return ui.WriteData(a.Streams.Out, view)
	}
	a.Streams.Say("%s is running. Run its agent with: smolvm attach %s", name, name)
	_, err = fmt.Fprintln(a.Streams.Out, name)
	return err
}

// sayForwards says where the sandbox's ports are on this computer. Of one that could
// not be had the start has warned.
func (a *App) sayForwards(ctx context.Context, boxes sandboxes, s sandbox.Status) error {
	if len(s.Forwards) == 0 {
		return nil
	}
	report, err := boxes.Ports(ctx, s.Name, false)
	if err != nil {
		return err
	}
	for _, f := range report.Forwards {
		if f.Failed == "" {
			a.notice("%s leads to port %d of the sandbox.", f.Listens(), f.Guest)
			a.warnOfPublic(f.Forward)
		}
	}
	return nil
}
