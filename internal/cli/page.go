package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// maxToken bounds what a page's token command may print, in bytes.
const maxToken = 1 << 10

// pageOptions are what `PRESET open` was asked for.
type pageOptions struct {
	Name  string // empty: the one that is meant
	Print bool
	JSON  bool
}

// pageView is the data of `PRESET open --json`.
type pageView struct {
	Sandbox string `json:"sandbox"`
	Address string `json:"address"` // with the token
}

func newPresetOpen(app *App, p preset.Preset, run func(context.Context, *App, preset.Preset, pageOptions) error) *cobra.Command {
	o := pageOptions{}
	cmd := &cobra.Command{
		Use:   "open [NAME]",
		Short: "Open the page of " + p.Name + " in your browser",
		Long: `Open the page of a running sandbox of ` + p.Name + ` in your browser, on the port of
this computer that leads to it, and let you in. What lets you in is read in the
sandbox. The browser gets it from this command, not on a command line, which other
users of this computer could read; with --print or --json the address is printed
instead, with what lets in.

Without NAME it is this directory's sandbox, or the only one that runs.`,
		Example: "  smolvm " + word(p) + " open\n" +
			"  smolvm " + word(p) + " open --print",
		Args:              arguments(0, 1),
		ValidArgsFunction: app.completeFirst(sandbox.Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = strings.Join(args, "")
			return run(cmd.Context(), app, p, o)
		},
	}
	cmd.Flags().BoolVar(&o.Print, "print", false, "print the address instead")
	jsonFlag(cmd, &o.JSON, "the address, which is not opened")
	return cmd
}

func runPresetOpen(ctx context.Context, app *App, p preset.Preset, o pageOptions) error {
	if o.Print && o.JSON {
		return refuse("Give one of them.", "--print and --json exclude each other")
	}
	boxes, s, err := app.pageSandbox(p, o.Name)
	if err != nil {
		return err
	}
	host, err := app.pageHost(ctx, boxes, s, p.Page.Port)
	if err != nil {
		return err
	}
	if err := app.awaitServices(ctx, boxes, s); err != nil {
		return err
	}
	app.Progress().Close()
	token, err := app.pageToken(ctx, boxes, s, p.Page.Token)
	if err != nil {
		return err
	}
	address := p.Page.Address(host, token)
	switch {
	case o.JSON:
		return ui.WriteData(app.Streams.Out, pageView{s.Name, address})
	case o.Print:
		_, err = fmt.Fprintln(app.Streams.Out, address)
		return err
	}
	app.Streams.Say("Opening http://%s, the page of %s.", host, s.Name)
	return app.handOver(ctx, address)
}

// pageSandbox is the running sandbox of a preset that is meant.
func (a *App) pageSandbox(p preset.Preset, name string) (sandboxes, sandbox.Status, error) {
	boxes, err := a.Sandboxes()
	if err != nil {
		return nil, sandbox.Status{}, err
	}
	if name == "" {
		if name, err = a.theSandboxOf(boxes, p); err != nil {
			return nil, sandbox.Status{}, err
		}
	}
	boxes, s, err := a.one(name)
	switch {
	case err != nil:
		return nil, s, err
	case s.Preset != p.Name:
		return nil, s, refuse("See smolvm list.", "sandbox %q is one of %s, not of %s", name, s.Preset, p.Name)
	case s.State != sandbox.Running:
		return nil, s, fault.New(fault.NotRunning, "Start it: smolvm start "+name, "sandbox %q is %s", name, s.State)
	}
	return boxes, s, nil
}

// theSandboxOf is the one of a preset that somebody means who names none.
func (a *App) theSandboxOf(boxes sandboxes, p preset.Preset) (string, error) {
	all, err := boxes.List()
	if err != nil {
		return "", err
	}
	all = slices.DeleteFunc(all, func(s sandbox.Status) bool { return s.Preset != p.Name || s.State == sandbox.Broken })
	for _, likely := range []func(sandbox.Status) bool{
		func(s sandbox.Status) bool { return a.Directory != "" && s.Directory == a.Directory },
		func(s sandbox.Status) bool { return s.State == sandbox.Running },
	} {
		some := slices.DeleteFunc(slices.Clone(all), func(s sandbox.Status) bool { return !likely(s) })
		if len(some) == 1 {
			return some[0].Name, nil
		}
	}
	if len(all) == 1 {
		return all[0].Name, nil
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	if len(names) == 0 {
		return "", fault.New(fault.NotFound, fmt.Sprintf("Make one: smolvm %s start", word(p)), "there is no sandbox of %s", p.Name)
	}
	return "", refuse("Name one: "+strings.Join(names, ", "), "there are %d sandboxes of %s", len(names), p.Name)
}

// pageHost is where the page's port is on this computer.
func (a *App) pageHost(ctx context.Context, boxes sandboxes, s sandbox.Status, port int) (string, error) {
	report, err := boxes.Ports(ctx, s.Name, false)
	if err != nil {
		return "", err
	}
	reason := "it is not forwarded"
	for _, f := range report.Forwards {
		if f.Guest != port {
			continue
		}
		if f.Failed == "" {
			return net.JoinHostPort(reachable(f.Address), strconv.Itoa(f.Host)), nil
		}
		reason = f.Failed
	}
	return "", fault.New(fault.Conflict, fmt.Sprintf("Forward it: smolvm port add %s %d", s.Name, port),
		"port %d of sandbox %q cannot be reached: %s", port, s.Name, reason)
}

// reachable is an address on which this computer itself finds a forward.
func reachable(address string) string {
	if ip := net.ParseIP(address); ip == nil || ip.IsUnspecified() {
		return "127.0.0.1"
	}
	return address
}

// pageToken reads what lets a browser in.
func (a *App) pageToken(ctx context.Context, boxes sandboxes, s sandbox.Status, command []string) (string, error) {
	if len(command) == 0 {
		return "", nil
	}
	conn, err := boxes.Connect(ctx, s.Name)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	out, errs := &capture{limit: maxToken}, &capture{limit: maxToken}
	status, err := conn.Exec(ctx, supervise.Command{Start: wire.Start{Argv: command, Agent: true}},
		supervise.Streams{In: strings.NewReader(""), Out: out, Err: errs})
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(out.String())
	if status != 0 || token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fault.New(fault.Conflict, "See smolvm logs --service.",
			"sandbox %q does not say what lets a browser in: status %d, %d bytes; %s", s.Name, status, out.Len(), ui.Clean(errs.String()))
	}
	return token, nil
}

var errNobodyCame = errors.New("no browser came for the page")

// handOver opens an address without putting it on a command line: the browser is
// given a path of this command that sends it on, once.
func (a *App) handOver(ctx context.Context, address string) error {
	if err := wire.CheckAddress(address); err != nil {
		return err
	}
	door, err := openDoor(ctx, a.Rand, address)
	if err != nil {
		return fault.New(fault.Host, "Print the address instead: --print.", "hand the page to the browser: %w", err)
	}
	defer door.close()
	if err := a.openBrowser(ctx, door.address); err != nil {
		return err
	}
	err = door.wait(ctx)
	if errors.Is(err, errNobodyCame) {
		return fault.New(fault.Host, "Print the address instead: --print.", "open the page: %w within %v", err, doorTime)
	}
	return err
}
