package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestCommandsPage keeps docs/commands.md what the commands themselves say.
func TestCommandsPage(t *testing.T) {
	w := newWorld(t)
	root, err := newRoot(w.app)
	if err != nil {
		t.Fatal(err)
	}
	intro, err := os.ReadFile(filepath.Join("testdata", "commands-intro.md"))
	if err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	page.Write(intro)
	page.WriteString("\n## Exit status\n\n" + exitTable() + "\n## Commands\n")
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" && (cmd.GroupID != presetGroup || cmd.Name() == "claude-code") {
			describe(&page, cmd)
		}
	}
	golden(t, filepath.Join("..", "..", "docs", "commands.md"), page.String())
}

func exitTable() string {
	var out strings.Builder
	out.WriteString("| status | code | meaning |\n|---|---|---|\n| 0 | | done |\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&out, "| %d | `%s` | %s |\n", c.code.Exit(), c.code, c.meaning)
	}
	out.WriteString("\n`PRESET start`, `start`, `attach`, `exec` and `ssh` hand back the status of the program that they ran. " +
		"Where there is none they end with 125, whatever the code, or with 130 when they were interrupted. " +
		"126 and 127 come from the sandbox: the program cannot be run, or is not there. " +
		"What a sandbox ended because it was stopped or restarted has no status: 125, and one line says which of both. " +
		"With `--json` the code says which.\n")
	return out.String()
}

// describe writes a command and what is below it.
func describe(out *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden {
		return
	}
	for _, sub := range cmd.Commands() {
		describe(out, sub)
	}
	if cmd.HasSubCommands() {
		return
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	fmt.Fprintf(out, "\n### %s\n\n```\n%s\n```\n\n%s\n\n```\n%s\n```\n", cmd.CommandPath(), cmd.UseLine(), markdown(text), cmd.Example)
	var flags strings.Builder
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			fmt.Fprintf(&flags, "| %s | %s |\n", flagName(f), f.Usage)
		}
	})
	if flags.Len() > 0 {
		out.WriteString("\n| flag | |\n|---|---|\n" + flags.String())
	}
}

func flagName(f *pflag.Flag) string {
	kind, _ := pflag.UnquoteUsage(f)
	name := strings.TrimSpace("--" + f.Name + " " + kind)
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	return "`" + name + "`"
}

// markdown makes indented lines code, as they are in a help text.
func markdown(text string) string { return strings.ReplaceAll(text, "\n  ", "\n      ") }
