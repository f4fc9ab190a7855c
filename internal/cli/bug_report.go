package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/doctor"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/redact"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
)

// maxTail is how much of the end of a log goes into a report, in bytes.
const maxTail = 64 << 10

// bugReportOptions are what `bug-report` was asked for.
type bugReportOptions struct {
	Name   string // of the sandbox; empty: the one that was changed last
	Output string // empty: a name with the time, in the current folder
	Yes    bool
	JSON   bool
}

// bugReportView is `bug-report --json`.
type bugReportView struct {
	Path  string       `json:"path"`
	Parts []reportPart `json:"parts"`
}

// reportPart is one part of the report.
type reportPart struct {
	Name     string `json:"name"`
	Bytes    int    `json:"bytes"`
	Redacted int    `json:"redacted"` // places that were taken out
	text     string
}

func newBugReport(app *App, run func(context.Context, *App, bugReportOptions) error) *cobra.Command {
	o := bugReportOptions{}
	cmd := &cobra.Command{
		Use:   "bug-report [NAME]",
		Short: "Collect what a bug report needs into one file",
		Long: `Collect versions, what 'smolvm doctor' says, the configuration, and the record, the
console's end and the supervisor's log of a sandbox (the last one that was used, or
NAME) into one text file. Secrets are taken out of it: values of variables whose
names speak of keys or tokens, passwords in addresses, private keys, and what looks
like a token. Nothing is sent anywhere. What will be in the file is listed first,
and on a terminal you are asked; read it before you show it to others.`,
		Example: `  smolvm bug-report
  smolvm bug-report -o report.txt claude-code`,
		Args:              arguments(0, 1),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Name = args[0]
			}
			return run(cmd.Context(), app, o)
		},
	}
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "`FILE` to write, which must not exist (default smolvm-bug-report-TIME.txt)")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "write without asking")
	jsonFlag(cmd, &o.JSON, "where it is and what is in it")
	return cmd
}

func runBugReport(ctx context.Context, app *App, o bugReportOptions) error {
	if o.Output == "" {
		o.Output = app.Now().UTC().Format("smolvm-bug-report-20060102-150405.txt")
	}
	if _, err := os.Lstat(o.Output); err == nil {
		return fault.New(fault.Conflict, "Name another with -o.", "write the report: %s is there already", o.Output)
	}
	parts, err := app.reportParts(ctx, o.Name)
	if err != nil {
		return err
	}
	app.Progress().Close()
	for _, p := range parts {
		app.Streams.Say("  %-16s %8s%s", p.Name, ui.Bytes(int64(p.Bytes)), takenOut(p.Redacted))
	}
	if !o.Yes && !o.JSON && app.Streams.Interactive() {
		if yes, err := app.Streams.Confirm(ctx, "Write this to "+o.Output+"?"); err != nil || !yes {
			return err
		}
	}
	if err := writeNew(o.Output, reportText(parts)); err != nil {
		return err
	}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, bugReportView{o.Output, parts})
	}
	app.Streams.Say("Read it before you show it to others: secrets of unusual forms may still be in it.")
	_, err = fmt.Fprintln(app.Streams.Out, o.Output)
	return err
}

func takenOut(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "  1 secret taken out"
	}
	return fmt.Sprintf("  %d secrets taken out", n)
}

// reportParts collects the report. What cannot be had is in it as the reason.
func (a *App) reportParts(ctx context.Context, name string) ([]reportPart, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	clean := redact.New(a.Environ)
	var parts []reportPart
	add := func(name, text string, err error) {
		if err != nil {
			text += "could not be had: " + err.Error() + "\n"
		}
		p := reportPart{Name: name}
		p.text, p.Redacted = clean.Text(text)
		p.text = ui.CleanLines(p.text)
		p.Bytes = len(p.text)
		parts = append(parts, p)
	}
	version, err := indented(a.versions())
	add("version", version, err)
	facts, err := a.Facts(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	add("doctor", doctorView{Report: doctor.Examine(facts)}.text(), err)
	add("config", a.configOf(c).text(a.sheet()), nil)
	box, err := a.reported(name)
	if err != nil || box.Name == "" {
		return parts, err
	}
	record, err := indented(box)
	add("sandbox", record, err)
	folder, err := a.folder(box.Name)
	if err != nil {
		return nil, err
	}
	console, err := lastOf(folder.Console())
	add("console", console, err)
	log, err := lastOf(folder.Log())
	add("supervisor", log, err)
	return parts, nil
}

// reported is the sandbox that the report is about; one without a name: there is
// none.
func (a *App) reported(name string) (sandbox.Status, error) {
	if name != "" {
		_, s, err := a.one(name)
		return s, err
	}
	boxes, err := a.Sandboxes()
	if err != nil {
		return sandbox.Status{}, err
	}
	all, err := boxes.List()
	if err != nil || len(all) == 0 {
		return sandbox.Status{}, err
	}
	return slices.MaxFunc(all, func(x, y sandbox.Status) int { return lastUse(x).Compare(lastUse(y)) }), nil
}

func lastUse(s sandbox.Status) time.Time {
	return slices.MaxFunc([]time.Time{s.Created, s.Started, s.Stopped}, time.Time.Compare)
}

func indented(data any) (string, error) {
	raw, err := json.MarshalIndent(data, "", "  ")
	return string(raw) + "\n", err
}

// lastOf reads the end of a log, from the start of a line.
func lastOf(path string) (string, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	from := max(0, info.Size()-maxTail)
	raw, err := io.ReadAll(io.NewSectionReader(file, from, maxTail))
	if _, rest, cut := bytes.Cut(raw, []byte("\n")); from > 0 && cut {
		raw = rest
	}
	return string(raw), err
}

func reportText(parts []reportPart) string {
	var out strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&out, "==== %s ====\n%s\n", p.Name, strings.TrimRight(p.text, "\n")+"\n")
	}
	return out.String()
}

// writeNew writes a file that is for its owner's eyes. A part of it is not left.
func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.New(fault.Storage, "Name another with -o.", "write the report: %w", err)
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return fault.New(fault.Storage, "Name another with -o.", "write the report: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}
