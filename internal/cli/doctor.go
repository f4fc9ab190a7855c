package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/doctor"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/ui"
)

// doctorOptions are what `doctor` was asked for.
type doctorOptions struct {
	Fix  bool
	JSON bool
}

// doctorView is `doctor --json`.
type doctorView struct {
	doctor.Report
	Fixed []doctor.Repair `json:"fixed"`
}

func newDoctor(app *App, run func(context.Context, *App, doctorOptions) error) *cobra.Command {
	o := doctorOptions{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out whether this computer can run sandboxes, and how well",
		Long: `Find out whether this computer can run sandboxes, and how well: one line for each
subject, in the order in which you need them. A guest is really booted; where its
kernel is not in the cache it is downloaded for that, verified, and not kept.

The exit status is 0 where all is well, 1 where sandboxes run with a loss or
something could not be tested, and 2 where none can run.

--fix does what needs no root and prints the rest as commands.`,
		Example: `  smolvm doctor
  smolvm doctor --fix
  smolvm doctor --json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	app.firecrackerFlag(cmd)
	cmd.Flags().BoolVar(&o.Fix, "fix", false, "repair what needs no root, and print the rest as commands")
	jsonFlag(cmd, &o.JSON, "the checks")
	return cmd
}

func runDoctor(ctx context.Context, app *App, o doctorOptions) error {
	view := doctorView{Fixed: []doctor.Repair{}}
	facts, err := app.Facts(ctx)
	if err != nil {
		return err
	}
	view.Report = doctor.Examine(facts)
	if o.Fix {
		if view.Fixed, err = app.repair(view.Report, facts.Home.Path); err != nil {
			return err
		}
		if len(view.Fixed) > 0 {
			facts.Home = lookAtHome(facts.Home.Path)
			view.Report = doctor.Examine(facts)
		}
	}
	if err := app.writeReport(view, o); err != nil {
		return err
	}
	if status := view.Exit(); status != 0 {
		return programExit(status) // the lines have said why
	}
	return nil
}

// repair does what the report says can be done without root.
func (a *App) repair(r doctor.Report, home string) (done []doctor.Repair, err error) {
	done = []doctor.Repair{}
	for _, what := range r.Repairs() {
		switch what {
		case doctor.MakeHome:
			err = os.MkdirAll(home, 0o700)
		case doctor.CloseHome:
			err = closeFolder(home)
		}
		if err != nil {
			return done, fault.New(fault.Storage, "", "repair the state folder: %w", err)
		}
		done = append(done, what)
	}
	return done, nil
}

// closeFolder takes the right to write from everybody but the owner.
func closeFolder(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Chmod(path, info.Mode().Perm()&^0o022)
}

func (a *App) writeReport(view doctorView, o doctorOptions) error {
	if o.JSON {
		return ui.WriteData(a.Streams.Out, view)
	}
	a.Progress().Close()
	_, err := fmt.Fprint(a.Streams.Out, view.text())
	if err == nil && o.Fix {
		_, err = fmt.Fprint(a.Streams.Out, view.repairs())
	}
	return err
}

// text is the report, one line per subject; what to do follows indented.
func (v doctorView) text() string {
	var out strings.Builder
	for _, c := range v.Checks {
		fmt.Fprintf(&out, "%-9s %-13s %s\n", c.State, c.Name, ui.Clean(sentence(c.Found, c.Means)))
		if c.Fix != "" {
			fmt.Fprintf(&out, "%24s%s\n", "", ui.Clean(c.Fix))
		}
		for _, command := range c.Commands {
			fmt.Fprintf(&out, "%26s%s\n", "", ui.Clean(command))
		}
	}
	fmt.Fprintf(&out, "\n%s\n", ui.Clean(v.Start))
	return out.String()
}

func sentence(found, means string) string {
	if means == "" {
		return found
	}
	return found + ": " + means
}

// repairs says what --fix did and what is left to the user.
func (v doctorView) repairs() string {
	var out strings.Builder
	for _, what := range v.Fixed {
		fmt.Fprintf(&out, "repaired: %s\n", what)
	}
	for _, c := range v.Checks {
		for _, command := range c.Commands {
			fmt.Fprintf(&out, "to run yourself: %s\n", command)
		}
	}
	if out.Len() == 0 {
		return "nothing to repair\n"
	}
	return out.String()
}
