package cli

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/ui"
)

// Groups of the help text.
const (
	presetGroup  = "presets"
	sandboxGroup = "sandboxes"
	imageGroup   = "images"
	otherGroup   = "other"
)

// newRoot makes the command tree. It fails when a preset cannot be read.
func newRoot(app *App) (*cobra.Command, error) {
	root := group(&cobra.Command{
		Use:   "smolvm",
		Short: "Run coding agents in small virtual machines",
		Long: `Run coding agents in small virtual machines.

'smolvm claude start' downloads a ready-to-boot image, verifies it, boots it and
puts you in front of the agent.`,
		Example: `  smolvm claude start
  smolvm claude start --rm -- -p "fix the failing test" | tee log
  smolvm exec claude-code git status
  smolvm list`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	})
	root.SetOut(app.Streams.Out)
	root.SetErr(app.Streams.Err)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.SetHelpCommandGroupID(otherGroup)
	root.Version = app.Build.Version
	root.SetVersionTemplate("smolvm {{.Version}}\n")
	root.AddGroup(
		&cobra.Group{ID: presetGroup, Title: "Agents:"},
		&cobra.Group{ID: sandboxGroup, Title: "Sandboxes:"},
		&cobra.Group{ID: imageGroup, Title: "Images:"},
		&cobra.Group{ID: otherGroup, Title: "Other:"},
	)
	app.addGlobals(root)
	addTo(root, sandboxGroup,
		newList(app, runList), newInfo(app, runInfo), newStart(app, runStart), newStop(app, runStop),
		newAttach(app, runAttach), newExec(app, runExec), newSSH(app, runSSH), newSSHConfig(app, runSSHConfig), newCopy(app, runCopy), newLogs(app, runLogs), newPort(app), newEnv(app),
		newDelete(app, runDelete))
	addTo(root, sandboxGroup, newMount(app), newRename(app, runRename), newResize(app, runResize), newFork(app, runFork), newSnapshot(app), newUpdate(app, runUpdate))
	addTo(root, sandboxGroup, newNetwork(app, runNetwork), newTop(app, runTop))
	addTo(root, imageGroup, newImage(app), newPresets(app), newPrune(app, runPrune))
	addTo(root, otherGroup, newDoctor(app, runDoctor), newBugReport(app, runBugReport), newConfig(app), newVersion(app, runVersion), newCompletion(app))
	root.AddCommand(newSupervise(app))
	presets, err := app.AllPresets()
	if err != nil {
		return root, err
	}
	for _, p := range presets {
		addTo(root, presetGroup, newPreset(app, p, runPresetStart))
	}
	plainUsage(root)
	return root, completeFlags(root)
}

// plainUsage keeps "[flags]" out of usage lines: each has its own flags in the
// help, and some must come before a name.
func plainUsage(cmd *cobra.Command) {
	cmd.DisableFlagsInUseLine = true
	for _, sub := range cmd.Commands() {
		plainUsage(sub)
	}
}

func addTo(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.GroupID = group
		root.AddCommand(cmd)
	}
}

// addGlobals adds the flags that every command has.
func (a *App) addGlobals(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.global.Progress, "progress", string(ui.Auto), "how progress is shown: auto, plain, json")
	flags.BoolVar(&a.global.Plain, "plain", false, "no tables, colours and moving lines: for screen readers")
	flags.StringVar(&a.global.Manifest, "manifest", "", "`ADDRESS` of the image manifest: a path, http(s)://, oci:// (default SMOLVM_MANIFEST)")
	var read []string // by presetFiles, before there are flags
	flags.StringArrayVar(&read, "preset-file", nil, "`FILE` with a preset of your own; may be repeated")
	flags.StringArrayVar(&a.global.TrustedKey, "trusted-key", nil, "`FILE` with a minisign public key that may sign the manifest")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		err := a.checkGlobals()
		if cmd.Annotations[mayBeWrong] != "" {
			return nil
		}
		return err
	}
}

// checkGlobals refuses what is wrong with the flags or the environment whatever
// the command, before it works.
func (a *App) checkGlobals() error {
	if !slices.Contains(ui.Styles, ui.Style(a.global.Progress)) {
		return refuse("Use auto, plain or json.", "--progress %q is not a style", a.global.Progress)
	}
	if a.global.Plain {
		a.Streams.Color, a.Streams.Moves = false, false
	}
	_, err := a.Config()
	return err
}
