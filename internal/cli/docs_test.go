package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smolvm/smolvm/internal/fault"
)

// codes are in the order of docs/commands.md.
var codes = []struct {
	code    fault.Code
	meaning string
}{
	{fault.Internal, "a defect of SmolVM itself"},
	{fault.Usage, "the command line or the environment cannot be honoured"},
	{fault.NotFound, "no such preset, sandbox or image"},
	{fault.Conflict, "the name is taken, or the sandbox is in another state"},
	{fault.NotRunning, "the sandbox has to run for this"},
	{fault.Host, "this computer lacks something: QEMU, memory, permission"},
	{fault.Network, "an address cannot be reached or answers wrongly"},
	{fault.Trust, "a signature, digest, serial or expiry was refused"},
	{fault.Storage, "disk full, or a folder that cannot be written"},
	{fault.Boot, "the virtual machine did not become ready, or died"},
	{fault.Build, "a recipe failed"},
	{fault.Interrupted, "Ctrl-C, SIGTERM or SIGHUP"},
}

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
	for _, c := range codes {
		fmt.Fprintf(&out, "| %d | `%s` | %s |\n", c.code.Exit(), c.code, c.meaning)
	}
	out.WriteString("\n`PRESET start`, `start`, `attach`, `exec` and `ssh` hand back the status of the program that they ran. " +
		"Where there is none they end with 125, whatever the code, or with 130 when they were interrupted. " +
		"126 and 127 come from the sandbox: the program cannot be run, or is not there. With `--json` the code says which.\n")
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
