package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
)

// presetFiles finds the values of --preset-file: presets are commands, so they
// have to be known before the command line can be read.
func presetFiles(args []string) []string {
	var files []string
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if value, ok := strings.CutPrefix(arg, "--preset-file="); ok {
			files = append(files, value)
		}
		if arg == "--preset-file" && i+1 < len(args) {
			files = append(files, args[i+1])
		}
	}
	return files
}

// allPresets are the shipped presets and the user's own. A file in the user's
// folder that cannot be used is told; one that was named is an error.
func (a *App) allPresets() ([]preset.Preset, error) {
	all, err := config.Presets(a.Presets)
	if err != nil {
		return nil, err
	}
	if home, err := config.StateFolder(a.Environ, a.UserHome); err == nil { // reading the whole configuration tells
		all, a.wrongPresets = config.UserPresets(all, filepath.Join(home, config.PresetFolder))
	}
	for _, file := range a.global.PresetFile {
		if all, err = config.AddPreset(all, file); err != nil {
			return all, err
		}
	}
	return all, nil
}

func newPresets(app *App) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "preset",
		Short: "List, show and check presets, the shipped ones and your own",
		Example: `  smolvm preset list
  smolvm preset show claude
  smolvm preset check my-agent.toml`,
	})
	cmd.AddCommand(newPresetList(app, runPresetList), newPresetShow(app, runPresetShow), newPresetCheck(app, runPresetCheck))
	return cmd
}

// presetListOptions are what `preset list` was asked for.
type presetListOptions struct{ JSON bool }

func newPresetList(app *App, run func(context.Context, *App, presetListOptions) error) *cobra.Command {
	o := presetListOptions{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the presets",
		Long: `List the presets: those that smolvm ships, and your own, which are .toml files in
the folder presets of the state folder or named with --preset-file. What a file
holds is in docs/presets.md.`,
		Example: "  smolvm preset list\n  smolvm preset list --json",
		Args:    arguments(0, 0),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), app, o) },
	}
	jsonFlag(cmd, &o.JSON, "an array of presets")
	return cmd
}

func runPresetList(_ context.Context, app *App, o presetListOptions) error {
	all, err := app.AllPresets()
	if err != nil {
		return err
	}
	app.tellWrongPresets()
	if o.JSON {
		return ui.WriteData(app.Streams.Out, all)
	}
	table := ui.NewTable("PRESET", "ALSO", "AGENT", "VERSION", "IMAGE", "FROM")
	for _, p := range all {
		table.Add(p.Name, strings.Join(p.Aliases, ", "), p.Agent.Name, p.Agent.Version, imageOf(p), originOf(p))
	}
	return app.table(table)
}

// imageOf says where the preset's image usually comes from.
func imageOf(p preset.Preset) string {
	if p.Unpublished {
		return "built here"
	}
	return "published"
}

func originOf(p preset.Preset) string {
	if p.Origin == "" {
		return "smolvm"
	}
	return p.Origin
}

// tellWrongPresets warns of files in the user's folder that are passed over.
func (a *App) tellWrongPresets() {
	for _, err := range a.wrongPresets {
		a.warn("a preset is passed over: %v", err)
	}
}

// presetShowOptions are what `preset show` was asked for.
type presetShowOptions struct {
	Name string
	JSON bool
}

func newPresetShow(app *App, run func(context.Context, *App, presetShowOptions) error) *cobra.Command {
	o := presetShowOptions{}
	cmd := &cobra.Command{
		Use:               "show PRESET",
		Short:             "Show what a preset installs and how it starts",
		Example:           "  smolvm preset show claude\n  smolvm preset show codex --json",
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completePresets,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the preset")
	return cmd
}

func runPresetShow(_ context.Context, app *App, o presetShowOptions) error {
	names, err := app.presetNames([]string{o.Name})
	if err != nil {
		return err
	}
	all, err := app.AllPresets()
	if err != nil {
		return err
	}
	p, _ := preset.Find(all, names[0])
	if o.JSON {
		return ui.WriteData(app.Streams.Out, p)
	}
	_, err = fmt.Fprint(app.Streams.Out, presetText(app.sheet(), p))
	return err
}

// rulesText says what of a preset's variables never enters a sandbox.
func rulesText(all []preset.Credential) string {
	var parts []string
	for _, rule := range all {
		parts = append(parts, rule.Name+" for "+rule.Host)
	}
	return strings.Join(parts, ", ")
}

func presetText(out *sheet, p preset.Preset) string {
	out.facts("", [][2]string{
		{"preset", p.Name},
		{"also", strings.Join(p.Aliases, ", ")},
		{"summary", p.Summary},
		{"from", originOf(p)},
		{"agent", p.Agent.Name + " " + p.Agent.Version},
		{"image", imageOf(p)},
		{"starts", strings.Join(p.Launch, " ")},
		{"--ask", strings.Join(p.Ask, " ")},
		{"uses", strings.Join(p.Environment, ", ")},
		{"kept out", rulesText(p.Credentials)},
		{"logins", loginText(p.Logins)},
		{"ports", joinPorts(p.Ports)},
		{"memory", ui.Bytes(p.Resources.MemoryMiB << 20)},
		{"disk", ui.Bytes(p.Resources.DiskMiB << 20)},
	}...)
	for _, s := range p.Recipe.Steps {
		fmt.Fprintf(out, "\n# step %q\n%s\n", s.Name, strings.TrimSpace(ui.CleanLines(s.Run)))
	}
	for _, f := range p.Recipe.Files {
		fmt.Fprintf(out, "\n# file %s\n%s\n", f.Path, strings.TrimSpace(ui.CleanLines(f.Content)))
	}
	return out.String()
}

func loginText(logins []preset.Login) string {
	var files []string
	for _, l := range logins {
		files = append(files, "~/"+l.File)
	}
	return strings.Join(files, ", ")
}

func joinPorts(ports []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ports), " ", ", "), "[]")
}

// presetCheckOptions are what `preset check` was asked for.
type presetCheckOptions struct {
	Files []string
	JSON  bool
}

func newPresetCheck(app *App, run func(context.Context, *App, presetCheckOptions) error) *cobra.Command {
	o := presetCheckOptions{}
	cmd := &cobra.Command{
		Use:     "check FILE...",
		Short:   "Check presets of your own, without building anything",
		Example: "  smolvm preset check my-agent.toml",
		Args:    arguments(1, anyNumber),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Files = args
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the presets of the files")
	return cmd
}

func runPresetCheck(_ context.Context, app *App, o presetCheckOptions) error {
	shipped, err := config.Presets(app.Presets)
	if err != nil {
		return err
	}
	all := shipped
	for _, file := range o.Files {
		if all, err = config.AddPreset(all, file); err != nil {
			return err
		}
	}
	own := all[len(shipped):]
	if o.JSON {
		return ui.WriteData(app.Streams.Out, own)
	}
	for _, p := range own {
		if _, err := fmt.Fprintf(app.Streams.Out, "%s: preset %s, %s %s\n", p.Origin, p.Name, p.Agent.Name, p.Agent.Version); err != nil {
			return fault.New(fault.Internal, "", "write: %w", err)
		}
	}
	return nil
}
