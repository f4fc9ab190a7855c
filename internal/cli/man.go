package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smolvm/smolvm/internal/fault"
)

// exitCodes are the failures that scripts can tell apart, in the order of their
// exit statuses.
var exitCodes = []struct {
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

// environment are the variables that SmolVM reads; docs/commands.md says more.
var environment = []struct{ name, meaning string }{
	{"SMOLVM_HOME", "state folder (default ~/.smolvm)"},
	{"SMOLVM_MANIFEST", "address of the image manifest: a path, http(s)://, oci://"},
	{"SMOLVM_BACKEND", "virtual machine monitor"},
	{"SMOLVM_USE_PUBLISHED", "0, false or no: every image is built on this computer"},
	{"SMOLVM_BUILD_CACHE", "folder of image build's reusable products (default build in the state folder)"},
	{"NO_COLOR", "when set, no colours"},
}

// The pages that are not named after a command.
const (
	overviewPage = "smolvm"
	agentsPage   = "smolvm-agents"
)

// Page is one page of the manual, as man and mandoc read it.
type Page struct {
	Name string // smolvm-image.1
	Text string
}

// Manual is the manual, made from what the commands say of themselves: an
// overview, one page for each command with all that is below it, and one for the
// agents, which are started alike.
func (a *App) Manual(date time.Time) ([]Page, error) {
	root, err := newRoot(a)
	if err != nil {
		return nil, err
	}
	m := manual{date: date.UTC().Format(time.DateOnly), version: a.Build.Version}
	pages := []Page{m.overview(root), m.agents(inGroup(root, presetGroup))}
	for _, cmd := range documented(root) {
		pages = append(pages, m.command(cmd))
	}
	return pages, nil
}

// documented are the commands with a page of their own.
func documented(root *cobra.Command) []*cobra.Command {
	var commands []*cobra.Command
	for _, group := range []string{sandboxGroup, imageGroup, otherGroup} {
		commands = append(commands, inGroup(root, group)...)
	}
	return commands
}

func inGroup(root *cobra.Command, group string) []*cobra.Command {
	var commands []*cobra.Command
	for _, cmd := range root.Commands() {
		if cmd.GroupID == group && !cmd.Hidden && cmd.Name() != "help" {
			commands = append(commands, cmd)
		}
	}
	return commands
}

// pageOf names the page of a command below the root.
func pageOf(cmd *cobra.Command) string {
	if cmd.GroupID == presetGroup {
		return agentsPage
	}
	return strings.ReplaceAll(cmd.CommandPath(), " ", "-")
}

// manual is what all pages have at their head.
type manual struct{ date, version string }

func (m manual) begin(page, summary string) *roff {
	r := &roff{}
	r.title(page, m.date, m.version)
	r.section("name")
	r.line(literal.Replace(page) + ` \- ` + literal.Replace(lowerFirst(summary)))
	return r
}

func finish(page string, r *roff) Page { return Page{Name: page + ".1", Text: r.out.String()} }

func (m manual) overview(root *cobra.Command) Page {
	r := m.begin(overviewPage, root.Short)
	r.section("synopsis")
	r.usage("smolvm AGENT start [FLAGS] [-- AGENT ARGS...]", "smolvm COMMAND [FLAGS] [ARGS...]")
	r.section("description")
	r.prose(root.Long)
	for _, group := range root.Groups() {
		r.section(strings.TrimSuffix(group.Title, ":"))
		for _, cmd := range inGroup(root, group.ID) {
			r.item(strings.TrimPrefix(cmd.CommandPath(), root.Name()+" "), cmd.Short+". See "+pageOf(cmd)+"(1).")
		}
	}
	r.section("options of all commands")
	flags(r, root.PersistentFlags())
	r.section("exit status")
	exits(r)
	r.section("environment")
	for _, v := range environment {
		r.item(v.name, v.meaning)
	}
	r.section("files")
	r.item("~/.smolvm", "images, sandboxes, keys and caches; config.toml in it says whom to trust and where to look")
	r.section("examples")
	r.prose(root.Example)
	pages := []string{agentsPage}
	for _, cmd := range documented(root) {
		pages = append(pages, pageOf(cmd))
	}
	r.seeAlso(pages...)
	return finish(overviewPage, r)
}

func exits(r *roff) {
	r.item("0", "done")
	for _, c := range exitCodes {
		r.item(fmt.Sprint(c.code.Exit()), fmt.Sprintf("%s (%s)", c.meaning, c.code))
	}
	r.paragraph()
	r.prose(`Commands that run a program hand back its status. Where there is none they end
with 125, whatever the reason, or with 130 when they were interrupted. 126 and 127
come from the sandbox: the program cannot be run, or is not there.`)
}

// agents is the page of all presets. The first one stands for the others.
func (m manual) agents(presets []*cobra.Command) Page {
	r := m.begin(agentsPage, "Start a new sandbox with an agent")
	r.section("synopsis")
	r.usage("smolvm AGENT start [FLAGS] [-- AGENT ARGS...]")
	r.section("agents")
	for _, cmd := range presets {
		r.item(cmd.Name(), cmd.Short+".")
	}
	if len(presets) > 0 {
		first := presets[0]
		r.section("description")
		r.prose("What follows is said of " + first.Name() + ". It holds for every agent, and all take the same flags.")
		for _, cmd := range leaves(first) {
			m.body(r, cmd, true)
		}
	}
	r.seeAlso(overviewPage)
	return finish(agentsPage, r)
}

func (m manual) command(cmd *cobra.Command) Page {
	page := pageOf(cmd)
	r := m.begin(page, cmd.Short)
	all := leaves(cmd)
	r.section("synopsis")
	for i, leaf := range all {
		if i > 0 {
			r.macro("br")
		}
		r.usage(usageLines(leaf)...)
	}
	r.section("description")
	for _, leaf := range all {
		m.body(r, leaf, len(all) > 1)
	}
	r.seeAlso(overviewPage)
	return finish(page, r)
}

// body says everything of a command that runs.
func (m manual) body(r *roff, cmd *cobra.Command, titled bool) {
	if titled {
		r.subsection(cmd.CommandPath())
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	r.prose(text)
	if len(cmd.Aliases) > 0 {
		r.paragraph()
		r.prose("Also: " + strings.Join(cmd.Aliases, ", ") + ".")
	}
	flags(r, cmd.LocalNonPersistentFlags())
	if cmd.Example != "" {
		r.paragraph()
		r.prose("Examples:\n" + cmd.Example)
	}
}

// usageLines are the ways to call a command, each with its whole path.
func usageLines(cmd *cobra.Command) []string {
	parent := strings.TrimSuffix(cmd.CommandPath(), cmd.Name())
	var lines []string
	for way := range strings.SplitSeq(cmd.Use, " | ") {
		lines = append(lines, parent+way)
	}
	return lines
}

// leaves are a command, or those below it that do something.
func leaves(cmd *cobra.Command) []*cobra.Command {
	if !cmd.HasAvailableSubCommands() {
		return []*cobra.Command{cmd}
	}
	var all []*cobra.Command
	for _, sub := range cmd.Commands() {
		if !sub.Hidden {
			all = append(all, leaves(sub)...)
		}
	}
	return all
}

func flags(r *roff, set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		word := strings.TrimSpace("--" + f.Name + " " + kind)
		if f.Shorthand != "" {
			word = "-" + f.Shorthand + ", " + word
		}
		r.item(word, usage)
	})
}

// lowerFirst begins a summary as the NAME of a page has it.
func lowerFirst(text string) string {
	if text == "" || len(text) > 1 && text[1] >= 'A' && text[1] <= 'Z' {
		return text
	}
	return strings.ToLower(text[:1]) + text[1:]
}
