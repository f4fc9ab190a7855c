package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// anyNumber of arguments is as many as one likes.
const anyNumber = -1

// arguments wants at least so many arguments, and at most so many.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		hint := "Usage: " + cmd.UseLine()
		switch {
		case len(args) < least:
			return fault.New(fault.Usage, hint, "%s: %s is missing", cmd.CommandPath(), wantedWord(cmd.Use, len(args)))
		case most != anyNumber && len(args) > most:
			return fault.New(fault.Usage, hint, "%s: unexpected argument %q", cmd.CommandPath(), ui.Clean(args[most]))
		}
		return nil
	}
}

// wantedWord is what a usage line calls the argument with a number, or the last one,
// which may be repeated. What is in brackets need not be there.
func wantedWord(use string, number int) string {
	var wanted []string
	depth := 0
	first, _, _ := strings.Cut(use, " | ")
	for _, word := range strings.Fields(first)[1:] {
		inside := depth > 0
		depth += strings.Count(word, "[") - strings.Count(word, "]")
		if !inside && depth == 0 && !(strings.HasPrefix(word, "[") && strings.HasSuffix(word, "]")) {
			word, _, _ = strings.Cut(word, "...")
			wanted = append(wanted, word)
		}
	}
	return wanted[min(number, len(wanted)-1)]
}

// afterDash are the words after --, nil when there are none.
func afterDash(cmd *cobra.Command, args []string) []string {
	if at := cmd.ArgsLenAtDash(); at >= 0 && at < len(args) {
		return args[at:]
	}
	return nil
}

// onlyAfterDash refuses words before --.
func onlyAfterDash(cmd *cobra.Command, args []string) error {
	return exactlyBeforeDash(cmd, args, 0)
}

// nameThenArgs wants one name before --.
func nameThenArgs(cmd *cobra.Command, args []string) error {
	return exactlyBeforeDash(cmd, args, 1)
}

// maybeNameThenArgs wants at most one name before --.
func maybeNameThenArgs(cmd *cobra.Command, args []string) error {
	if len(args) == len(afterDash(cmd, args)) {
		return nil
	}
	return exactlyBeforeDash(cmd, args, 1)
}

func exactlyBeforeDash(cmd *cobra.Command, args []string, want int) error {
	before := len(args) - len(afterDash(cmd, args))
	switch {
	case before > want:
		return fault.New(fault.Usage, "The agent's own arguments come after --.",
			"%s: unexpected argument %q", cmd.CommandPath(), ui.Clean(args[want]))
	case before < want:
		return fault.New(fault.Usage, "Usage: "+cmd.UseLine(), "%s: the sandbox's name is missing", cmd.CommandPath())
	}
	return nil
}

// withoutDash drops the -- in front of a command whose flags are not ours.
func withoutDash(words []string) []string {
	if len(words) > 0 && words[0] == "--" {
		return words[1:]
	}
	return words
}

// checkUser refuses users that a sandbox does not have.
func checkUser(user string) error {
	users := []string{wire.AgentUser, "root"}
	if slices.Contains(users, user) {
		return nil
	}
	return refuse("Use agent or root.", "a sandbox has no user %q", user)
}

// nearHint offers the nearest of the known words, or says where to look.
func nearHint(word string, known []string, otherwise string) string {
	if near := preset.NearestWord(word, known); near != "" {
		return fmt.Sprintf("Did you mean %s?", near)
	}
	return otherwise
}
