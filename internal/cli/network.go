package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// networkCommand is what `network` was asked for.
type networkCommand struct {
	Name  string
	Words []string // allow or deny and rules, a mode, or a rate; none: only show
	JSON  bool
}

// networkState is the data of `network --json`.
type networkState struct {
	Name string `json:"name"`
	networkView
	Live     []netstack.Entry `json:"live"`     // connections
	Refusals []netstack.Entry `json:"refusals"` // the last, oldest first
}

func newNetwork(app *App, run func(context.Context, *App, networkCommand) error) *cobra.Command {
	o := networkCommand{}
	cmd := &cobra.Command{
		Use:   "network NAME [allow RULE... | deny RULE... | open | restricted | off | rate SIZE]",
		Short: "Show or change what a sandbox may reach",
		Long: `Show what a sandbox may reach, its connections and what was refused it last, each
with the command that would allow it. With allow or deny, a mode, or a rate, change
that: at once where the sandbox runs, and for its next starts. Connections that are
no longer allowed end.

open is the internet, restricted only what is allowed, off nothing. In each mode
this computer, its networks and metadata services are closed unless an address of
theirs is allowed. ` + egress.RuleHint + `
` + egress.HostName + `:PORT is a port of this computer's loopback.

rate 2M lets at most 2 MiB a second pass in each direction, of all connections
together; rate none ends that.`,
		Example: `  smolvm network claude-code
  smolvm network claude-code allow registry.npmjs.org:443 10.0.0.5:3128
  smolvm network claude-code restricted
  smolvm network claude-code rate 2M`,
		Args:              arguments(1, anyNumber),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Words = args[0], args[1:]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "policy, connections and refusals")
	return cmd
}

func runNetwork(ctx context.Context, app *App, o networkCommand) error {
	change, err := o.change()
	if err != nil {
		return err
	}
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	if s.State == sandbox.Broken {
		return fault.New(fault.Conflict, "Delete it: smolvm delete "+o.Name, "sandbox %q is broken: %s", o.Name, s.LastError)
	}
	if !s.Network && change.Changes() {
		return fault.New(fault.Conflict, "Make one with --backend qemu.", "sandbox %q has no network", o.Name)
	}
	if change.Mode == egress.Restricted {
		if change.Allow, err = app.reach(s.Preset); err != nil {
			return err
		}
	}
	snapshot, err := boxes.Network(ctx, o.Name, change)
	if err != nil {
		return err
	}
	state := networkState{
		Name: o.Name, networkView: networkOf(s.Network, snapshot.Policy),
		Live: append([]netstack.Entry{}, snapshot.Live...), Refusals: append([]netstack.Entry{}, snapshot.Refusals...),
	}
	if s.Network {
		app.sayIdle(snapshot.Policy, change.Allow, s.Egress.Deny)
	}
	switch {
	case o.JSON:
		return ui.WriteData(app.Streams.Out, state)
	case change.Changes():
		app.Streams.Say("%s: %s", o.Name, state.text())
		return nil
	}
	return app.showNetwork(state)
}

// reach are the rules of a sandbox's preset; only the common ones of a preset that
// is no longer there.
func (a *App) reach(name string) ([]egress.Rule, error) {
	all, err := a.AllPresets()
	if err != nil {
		return nil, err
	}
	p, _ := preset.Find(all, name)
	return reachOf(p)
}

// change reads the words behind the name.
func (o networkCommand) change() (c egress.Change, err error) {
	if len(o.Words) == 0 {
		return c, nil
	}
	verb, rest := o.Words[0], o.Words[1:]
	switch verb {
	case "rate":
		if len(rest) != 1 {
			return c, refuse("Give one, such as 2M, or "+noRate+".", "network %s rate: %d rates are given", o.Name, len(rest))
		}
		rate, err := parseRate("network "+o.Name+" rate", rest[0])
		c.Rate = &rate
		return c, err
	case "allow", "deny":
		if len(rest) == 0 {
			return c, refuse(egress.RuleHint, "network %s %s: no rule is given", o.Name, verb)
		}
		what := "network " + o.Name + " " + verb
		if verb == "allow" {
			c.Allow, err = allowRules(what, rest)
		} else {
			c.Deny, err = denyRules(what, rest)
		}
		return c, err
	}
	if len(rest) > 0 {
		return c, refuse("Use allow, deny, open, restricted, off or rate.", "network %s: unexpected word %q", o.Name, ui.Clean(rest[0]))
	}
	if c.Mode, err = egress.ParseMode(verb); err != nil || verb == "" {
		return c, refuse("Use allow RULE..., deny RULE..., open, restricted, off or rate SIZE.", "network %s: unexpected word %q", o.Name, ui.Clean(verb))
	}
	return c, nil
}

// showNetwork shows the state to people.
func (a *App) showNetwork(s networkState) error {
	text, now := a.sheet(), a.Now()
	text.fact("network", s.text())
	if len(s.Allow) > shownRules && s.Mode != egress.Off {
		for _, r := range s.Allow {
			fmt.Fprintf(text, "  allowed %s\n", r)
		}
	}
	if len(s.Live) > 0 {
		text.WriteString("\n")
		table := ui.NewTable("CONNECTION", "NAME", "SENT", "RECEIVED", "SINCE")
		for _, e := range s.Live {
			table.Add(e.Protocol+" "+e.To, e.Name, ui.Bytes(e.Sent), ui.Bytes(e.Received), ui.Age(now, e.Time))
		}
		_ = a.tableTo(text, table)
	}
	if len(s.Refusals) > 0 {
		text.WriteString("\nRefused last:\n")
	}
	for _, e := range s.Refusals {
		fmt.Fprintf(text, "  %s ago: %s\n", ui.Age(now, e.Time), ui.Clean(refusalText(e)))
		switch {
		case e.Mode != "":
			fmt.Fprintf(text, "    smolvm network %s %s\n", s.Name, ui.Clean(string(e.Mode)))
		case e.Rule != "":
			fmt.Fprintf(text, "    smolvm network %s allow %s\n", s.Name, shellQuote(ui.Clean(e.Rule)))
		}
	}
	_, err := io.WriteString(a.Streams.Out, text.String())
	return err
}

func refusalText(e netstack.Entry) string {
	what := strings.TrimSpace(e.Protocol + " " + e.To)
	if e.Name != "" {
		what += " (" + e.Name + ")"
	}
	return what + ": " + e.Reason
}
