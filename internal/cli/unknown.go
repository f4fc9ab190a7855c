package cli

import (
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

// flagFault is a fault of reading the flags.
type flagFault struct{ *fault.Fault }

func (f *flagFault) Unwrap() error { return f.Fault }

// flagNamed finds the flag in the messages of pflag.
var flagNamed = regexp.MustCompile(`^unknown (?:shorthand )?flag: (?:'.' in )?(-\S+)`)

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
	}
	return &flagFault{fault.New(fault.Usage, hint, "%s: %w", cmd.CommandPath(), err)}
}

// usage makes an argument check of cobra one whose failure is a usage fault.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fault.New(fault.Usage, "Usage: "+cmd.UseLine(), "%s: %w", cmd.CommandPath(), err)
		}
		return nil
	}
}
