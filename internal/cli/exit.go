package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/ui"
)

// programExit is the exit status of the program that ran in the sandbox. It is
// handed back as it is and nothing is said about it.
type programExit int

func (e programExit) Error() string { return fmt.Sprintf("the program ended with status %d", int(e)) }

// handsBack marks commands that hand back another program's exit status: their
// own failures are all 125, as docker run has it.
const handsBack = "hands-back-status"

// handBack marks cmd.
func handBack(cmd *cobra.Command) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[handsBack] = "yes"
}

// status is the exit status of the program for the error of a command.
func status(cmd *cobra.Command, err error) int {
	var program programExit
	switch code := fault.CodeOf(err); {
	case err == nil:
		return 0
	case errors.As(err, &program):
		return int(program)
	case code == fault.Interrupted:
		return code.Exit()
	case cmd != nil && cmd.Annotations[handsBack] != "", errors.As(err, new(*unknownPreset)):
		return fault.ExitSmolVM
	default:
		return code.Exit()
	}
}

// report tells the user about an error, in the form the command line asks for.
func (a *App) report(cmd *cobra.Command, args []string, err error) {
	s := a.Streams
	if err == nil || errors.As(err, new(programExit)) {
		return
	}
	var known *dataFault
	var data any
	if errors.As(err, &known) {
		data = known.data
	}
	if wantsJSON(cmd, args, err) && ui.WriteFailure(s.Out, err, data) == nil {
		return
	}
	if ui.Style(a.global.Progress) == ui.JSON {
		s.FailJSON(a.Now(), err)
		return
	}
	s.Fail(err)
}

// dataFault is a failure that has a result all the same, for --json.
type dataFault struct {
	error
	data any
}

func (d *dataFault) Unwrap() error { return d.error }

// withData adds to a failure what the command found out.
func withData(err error, data any) error { return &dataFault{err, data} }

// wantsJSON reports whether the command line asks for JSON. Where the flags
// could not be read, the words are looked at.
func wantsJSON(cmd *cobra.Command, args []string, err error) bool {
	if flag := cmd.Flags().Lookup("json"); flag != nil && flag.Changed {
		return flag.Value.String() == "true"
	}
	if !cmd.HasSubCommands() && !errors.As(err, new(*flagFault)) {
		return false
	}
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}

// unwritten makes a failure to write the result what it is: the disk's that standard
// output goes to, and no defect of the program.
func unwritten(err error) error {
	var write *fs.PathError
	if fault.CodeOf(err) != fault.Internal || !errors.As(err, &write) || write.Op != "write" || write.Path != os.Stdout.Name() {
		return err
	}
	return fault.New(fault.Storage, "Look at where the output goes: it may be full, or closed.", "write the result to standard output: %w", write.Err)
}

// interrupted makes every failure of a cancelled command the same: the user
// asked for the end, what broke because of it is not news. What it leaves is.
func interrupted(ctx context.Context, err error, left string) error {
	if err == nil || ctx.Err() == nil || errors.As(err, new(programExit)) {
		return err
	}
	return fault.New(fault.Interrupted, left, "interrupted")
}
