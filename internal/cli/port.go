package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// portOptions are what `port` was asked for.
type portOptions struct {
	Name  string
	Names []string // list
	Ports []string
	JSON  bool
}

func newPort(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "port",
		Short: "Forward ports of this computer into a sandbox",
		Example: `  smolvm port add claude-code 3000
  smolvm port list`,
	})
	cmd.AddCommand(newPortAdd(app, runPortAdd), newPortList(app, runPortList), newPortRemove(app, runPortRemove))
	return cmd
}

func newPortAdd(app *App, run func(context.Context, *App, portOptions) error) *cobra.Command {
	o := portOptions{}
	cmd := &cobra.Command{
		Use:   "add NAME [[ADDRESS:]HOST:]PORT...",
		Short: "Forward a port of this computer to a port in a sandbox",
		Long: `Forward TCP ports of this computer to ports in a sandbox, at once where it runs,
and from each start on. The port is what a program in the sandbox listens on, on
its loopback or everywhere; it need not listen yet.

Without HOST the port of this computer has the same number where that is free, else
any other; what it got is printed. 0 asks for any. Only this computer reaches it, on
127.0.0.1 and ::1, unless an ADDRESS of this computer is named: 0.0.0.0 lets everyone
in who reaches this computer.`,
		Example: `  smolvm port add claude-code 3000
  smolvm port add claude-code 8080:80
  smolvm port add claude-code 0.0.0.0:8080:80`,
		Args:              arguments(2, anyNumber),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Ports = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the forwards that were added, as in port list")
	return cmd
}

func newPortRemove(app *App, run func(context.Context, *App, portOptions) error) *cobra.Command {
	o := portOptions{}
	cmd := &cobra.Command{
		Use:     "remove NAME [HOST:]PORT...",
		Aliases: []string{"rm"},
		Short:   "Forward a port no more",
		Long: `Forward ports no more. A single number is a port of this computer or one in the
sandbox, whichever is forwarded; connections that there are go on.`,
		Example: `  smolvm port remove claude-code 3000
  smolvm port remove claude-code 8080:80`,
		Args:              arguments(2, anyNumber),
		ValidArgsFunction: app.completeForwards,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Ports = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the forwards that were removed, as in port list")
	return cmd
}

func newPortList(app *App, run func(context.Context, *App, portOptions) error) *cobra.Command {
	o := portOptions{}
	cmd := &cobra.Command{
		Use:     "list [NAME...]",
		Aliases: []string{"ls"},
		Short:   "List the forwarded ports",
		Long: `List the forwarded ports of sandboxes, of all where none is named. What listens in
a sandbox without being forwarded is in 'smolvm info NAME'.`,
		Example: `  smolvm port list
  smolvm port list claude-code --json`,
		ValidArgsFunction: app.completeAll(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Names = distinct(args)
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "an array of forwards")
	return cmd
}

// completeForwards offers sandboxes, then the forwards of the one that was named.
func (a *App) completeForwards(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeAll(anySandbox)(cmd, args, begun)
	}
	_, s, err := a.one(args[0])
	var words []string
	for _, f := range s.Forwards {
		words = append(words, fmt.Sprintf("%d:%d", f.Host, f.Guest))
	}
	if err != nil {
		words = nil
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// forwardView is a forwarded port in JSON.
type forwardView struct {
	Sandbox string `json:"sandbox"`
	Address string `json:"address"` // of this computer; empty: its loopback, 127.0.0.1 and ::1
	Host    int    `json:"host"`    // port there; 0: any that is free at the next start
	Guest   int    `json:"guest"`   // port in the sandbox
	Open    bool   `json:"open"`
	Reason  string `json:"reason"` // why it is not open
}

func viewForward(name string, f port.Forward, failed string) forwardView {
	return forwardView{name, f.Address, f.Host, f.Guest, failed == "", failed}
}

func viewForwards(name string, all []port.Forward) []forwardView {
	views := make([]forwardView, 0, len(all))
	for _, f := range all {
		views = append(views, viewForward(name, f, ""))
	}
	return views
}

func runPortAdd(ctx context.Context, app *App, o portOptions) error {
	wanted, err := parsePorts(o.Ports)
	if err != nil {
		return err
	}
	boxes, s, err := app.one(o.Name)
	if err == nil {
		err = app.forwardable(ctx, s, wanted)
	}
	if err != nil {
		return err
	}
	views := []forwardView{}
	for _, f := range wanted {
		got, err := boxes.Forward(ctx, o.Name, f)
		if err != nil {
			return err
		}
		views = append(views, app.forwarded(s, f, got, o.JSON))
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, views)
	}
	return nil
}

// forwarded says where a new forward leads from.
func (a *App) forwarded(s sandbox.Status, wanted, got port.Forward, quiet bool) forwardView {
	if s.State != sandbox.Running {
		if !quiet {
			a.Streams.Say("port %d of %s is forwarded from its next start on", got.Guest, s.Name)
		}
		return viewForward(s.Name, got, notRunning)
	}
	if !quiet {
		fmt.Fprintln(a.Streams.Out, got.Listens())
		if wanted.Host != 0 && wanted.Host != got.Host {
			a.Streams.Say("port %d of this computer is not to be had; %s leads to port %d of %s", wanted.Host, got.Listens(), got.Guest, s.Name)
		}
	}
	a.warnOfPublic(got)
	return viewForward(s.Name, got, "")
}

const notRunning = "the sandbox is not running"

func (a *App) warnOfPublic(f port.Forward) {
	if f.Public() {
		a.Streams.Say("whoever reaches this computer on %s can use it", f.Listens())
	}
}

// forwardable refuses what can be told to fail before anything is changed.
func (a *App) forwardable(ctx context.Context, s sandbox.Status, wanted []port.Forward) error {
	for i, f := range wanted {
		for _, other := range wanted[:i] {
			if f.Meets(other) && !f.Any {
				return refuse("Name another port of this computer for one of them.",
					"ports %d and %d of %s cannot both be had from %s", other.Guest, f.Guest, s.Name, f.Listens())
			}
		}
		for _, other := range s.Forwards {
			if f.Meets(other) && !f.Same(other) && !f.Any {
				return fault.New(fault.Conflict, "Remove that one first, or name another port.",
					"forward port %d: %s leads to port %d of %s already", f.Guest, f.Listens(), other.Guest, s.Name)
			}
		}
		if s.State == sandbox.Running || slices.ContainsFunc(s.Forwards, f.Same) {
			continue
		}
		if err := a.PortFree(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// parsePorts reads the words of -p and of port add.
func parsePorts(words []string) ([]port.Forward, error) {
	var all []port.Forward
	for _, word := range words {
		f, err := port.Parse(word)
		if err != nil {
			return nil, refuse("Write [[ADDRESS:]HOST:]PORT, such as 3000, 8080:80 or 0.0.0.0:8080:80; only TCP is forwarded.", "%w", err)
		}
		if !slices.ContainsFunc(all, f.Same) {
			all = append(all, f)
		}
	}
	return all, nil
}

func runPortRemove(ctx context.Context, app *App, o portOptions) error {
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	var unwanted []port.Forward
	for _, word := range o.Ports {
		f, err := findForward(s, word)
		if err != nil {
			return err
		}
		unwanted = append(unwanted, f)
	}
	var errs []error
	for _, f := range unwanted {
		errs = append(errs, boxes.Unforward(ctx, o.Name, f))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, viewForwards(o.Name, unwanted))
	}
	for _, f := range unwanted {
		app.Streams.Say("%s leads to port %d of %s no more", f.Listens(), f.Guest, o.Name)
	}
	return nil
}

// findForward is the one that a word names: HOST:PORT with an address or without, or
// one number of either side.
func findForward(s sandbox.Status, word string) (port.Forward, error) {
	wanted, err := port.Parse(word)
	if err != nil {
		return wanted, refuse("Write HOST:PORT, or one of both.", "%w", err)
	}
	single := !strings.Contains(word, ":")
	var found []port.Forward
	var there []string
	for _, f := range s.Forwards {
		there = append(there, f.String())
		exact := f.Guest == wanted.Guest && f.Host == wanted.Host && (f.Address == wanted.Address || strings.Count(word, ":") == 1)
		if exact || single && (f.Guest == wanted.Guest || f.Host == wanted.Guest) {
			found = append(found, f)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return wanted, refuse("Write one of them in full: "+strings.Join(there, ", ")+".", "%s of %s means several forwards", word, s.Name)
	}
	hint := "It forwards none."
	if len(there) > 0 {
		hint = "It forwards " + strings.Join(there, ", ") + "."
	}
	return wanted, fault.New(fault.NotFound, hint, "sandbox %q forwards no port %s", s.Name, word)
}

func runPortList(ctx context.Context, app *App, o portOptions) error {
	boxes, err := app.allThere(o.Names)
	if err != nil {
		return err
	}
	if len(o.Names) == 0 {
		if o.Names, err = boxes.Names(); err != nil {
			return err
		}
	}
	views := []forwardView{}
	for _, name := range o.Names {
		report, err := boxes.Ports(ctx, name, false)
		if err != nil {
			app.Streams.Say("%s: %v", name, err) // the others are there all the same
			continue
		}
		for _, f := range report.Forwards {
			views = append(views, viewForward(name, f.Forward, f.Failed))
		}
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, views)
	}
	if len(views) == 0 {
		app.Streams.Say("No port is forwarded. Forward one: smolvm port add NAME PORT")
		return nil
	}
	table := ui.NewTable("SANDBOX", "THIS COMPUTER", "IN THE SANDBOX", "STATE")
	for _, v := range views {
		table.Add(v.Sandbox, v.at(), strconv.Itoa(v.Guest), v.state())
	}
	return app.table(table)
}

func (v forwardView) at() string {
	if v.Host == 0 {
		return "any"
	}
	return port.Forward{Address: v.Address, Host: v.Host, Guest: v.Guest}.Listens()
}

func (v forwardView) state() string {
	if v.Open {
		return "open"
	}
	return v.Reason
}

// joinForwards are forwards in one line.
func joinForwards(all []forwardView) string {
	texts := make([]string, 0, len(all))
	for _, f := range all {
		texts = append(texts, fmt.Sprintf("%s leads to %d", f.at(), f.Guest))
	}
	return strings.Join(texts, ", ")
}
