package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
)

// unknownPreset is a fault of `smolvm WORD start`: it counts as a failed start.
type unknownPreset struct{ *fault.Fault }

func (u *unknownPreset) Unwrap() error { return u.Fault }

// unknownWord is the error for a word that names no command of parent.
func unknownWord(parent *cobra.Command, args []string) error {
	word := ui.Clean(args[0])
	hint := "See " + parent.CommandPath() + " --help."
	if near := preset.NearestWord(word, words(parent)); near != "" {
		hint = "Did you mean " + near + "?"
	}
	if !parent.HasParent() && len(args) > 1 && args[1] == "start" {
		return &unknownPreset{fault.New(fault.NotFound, hint, "there is no preset %q", word)}
	}
	return fault.New(fault.Usage, hint, "%s has no command %q", parent.CommandPath(), word)
}

// words are the names and aliases of a command's subcommands.
func words(parent *cobra.Command) []string {
	var all []string
	for _, cmd := range parent.Commands() {
		if !cmd.Hidden {
			all = append(append(all, cmd.Name()), cmd.Aliases...)
		}
	}
	return all
}

// group makes cmd a command that has only subcommands.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownWord(cmd, args)
		}
		return cmd.Help()
	}
	return cmd
}

// newHelp makes `help`, which refuses words that name no command: cobra's own shows
// the page of what comes before them.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Help about any command",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return words(found), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = unknownWord(found, rest)
			}
			if err != nil {
				return err
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

// flagFault is a fault of reading the flags.
type flagFault struct{ *fault.Fault }

func (f *flagFault) Unwrap() error { return f.Fault }

// flagNamed finds the flag in the messages of pflag.
var flagNamed = regexp.MustCompile(`^unknown (?:shorthand )?flag: (?:'.' in )?(-\S+)`)

// changing are the commands that change what flags decide when a sandbox is made.
var changing = map[string]string{
	"--cpus": "smolvm resize", "--memory": "smolvm resize", "--disk": "smolvm resize", "--mount": "smolvm mount add",
	"--publish": "smolvm port add", "-p": "smolvm port add",
	"--network": "smolvm network", "--allow": "smolvm network", "--allow-host": "smolvm network",
}

// flagError makes an error of flag parsing one of ours. A group's flags are
// read before its words, so an unknown word is looked for first.
func flagError(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return unknownWord(cmd, cmd.Flags().Args())
	}
	hint := "See " + cmd.CommandPath() + " --help."
	if found := flagNamed.FindStringSubmatch(err.Error()); found != nil {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
		name, _, _ := strings.Cut(found[1], "=")
		if near := preset.NearestWord(name, known); near != "" && strings.HasPrefix(name, "--") {
			hint = "Did you mean " + near + "?"
		}
		if command := changing[name]; command != "" && cmd.CommandPath() == "smolvm start" {
			hint = "That was decided when the sandbox was made; see " + command + "."
		}
	}
	return &flagFault{fault.New(fault.Usage, hint, "%s: %w", cmd.CommandPath(), flagTrouble(err))}
}

// flagTrouble says in our words what is wrong with a flag's value: those of pflag
// are Go's own for numbers and times.
func flagTrouble(err error) error {
	var none *pflag.ValueRequiredError
	var wrong *pflag.InvalidValueError
	switch {
	case errors.As(err, &none):
		return fmt.Errorf("--%s needs a value", none.GetFlag().Name)
	case !errors.As(err, &wrong):
		return err
	}
	name, value := wrong.GetFlag().Name, ui.Clean(wrong.GetValue())
	switch wrong.GetFlag().Value.Type() {
	case "int", "int64", "uint16":
		return fmt.Errorf("--%s %.60q is not a whole number", name, value)
	case "bool":
		return fmt.Errorf("--%s %.60q is neither true nor false", name, value)
	case "duration":
		return fmt.Errorf("--%s %.60q is not a time, such as 90s or 5m", name, value)
	}
	return fmt.Errorf("--%s: %w", name, wrong.Unwrap())
}
