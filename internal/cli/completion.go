package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/wire"
)

var shells = []string{"bash", "zsh", "fish"}

func newCompletion(app *App) *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script of a shell: bash, zsh, fish",
		Long: `Print a script that completes commands, flags, presets and the names of
sandboxes. In bash it needs the package bash-completion, which also reads the script
from the folder below.`,
		Example: `  smolvm completion bash > ~/.local/share/bash-completion/completions/smolvm
  smolvm completion zsh > "${fpath[1]}/_smolvm"
  smolvm completion fish > ~/.config/fish/completions/smolvm.fish`,
		Args:      arguments(1, 1),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			out, root := app.Streams.Out, cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			hint := "bash, zsh and fish are known."
			if near := preset.NearestWord(args[0], shells); near != "" {
				hint = "Did you mean " + near + "?"
			}
			return fault.New(fault.Usage, hint, "there is no completion for the shell %q", args[0])
		},
	}
}

// flagWords are the values of flags that have few, by the flag's name, which means
// the same in every command. One without any names something in a sandbox.
func flagWords() map[string][]string {
	return map[string][]string{
		"arch": arches, "backend": {"firecracker", "qemu"}, "user": {wire.AgentUser, "root"}, "workdir": nil,
	}
}

// completeFlags offers the values of a command's flags, and of those below it: the
// shell's own habit is to offer files of this computer.
func completeFlags(cmd *cobra.Command) error {
	for name, words := range flagWords() {
		if cmd.Flags().Lookup(name) == nil {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			return fmt.Errorf("complete --%s: %w", name, err)
		}
	}
	for _, sub := range cmd.Commands() {
		if err := completeFlags(sub); err != nil {
			return err
		}
	}
	return nil
}

// completer is cobra's function that offers words for an argument.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeFirst offers sandboxes in a state for the first argument only.
func (a *App) completeFirst(state string) completer {
	all := a.completeAll(state)
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return all(cmd, args, begun)
	}
}

// completeAll offers the sandboxes in a state that are not yet among the arguments.
func (a *App) completeAll(state string) completer {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		boxes, err := a.Sandboxes()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, _ := boxes.List() // no names are better than an error in the middle of a line
		var names []string
		for _, s := range all {
			if (state == anySandbox || s.State == state) && !slices.Contains(args, s.Name) {
				names = append(names, s.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
