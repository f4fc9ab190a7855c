package cli

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/ui"
)

// defaultTimeout bounds a boot. Emulated guests on a busy computer take up to
// half a minute.
const defaultTimeout = 2 * time.Minute

// startOptions are what `PRESET start` and `start` were asked for.
type startOptions struct {
	Name     string
	CPUs     int    // 0: the image's default
	Memory   int64  // bytes; 0: the image's default
	Disk     int64  // bytes; 0: the image's default
	Arch     string // empty: this computer's
	Backend  string
	Attach   bool
	NoAttach bool
	Ask      bool
	Remove   bool
	New      bool
	Timeout  time.Duration
	Mounts   []string // HOST[:GUEST[:ro]]
	SamePath bool
	NoMount  bool
	Network  networkOptions
	Publish  []string // [[ADDRESS:]HOST:]PORT
	Verbose  bool
	DryRun   bool
	// NoProject leaves the directory's .smolvm.toml out.
	NoProject bool
	Give      giveOptions
	SSHAgent  bool
	Keep      *bool  // whether it runs on when nobody uses it; nil leaves it
	Record    string // file for the traffic; empty: none
	JSON      bool
	Args      []string // for the agent; nil: none were given
	Wish      wish
}

// newPreset makes the command of one agent.
func newPreset(app *App, p preset.Preset, run func(context.Context, *App, preset.Preset, startOptions) error) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     p.Name,
		Aliases: p.Aliases,
		Short:   summary(p),
		Example: "  smolvm " + word(p) + " start",
	})
	cmd.AddCommand(newPresetStart(app, p, run))
	if p.Page != nil {
		cmd.AddCommand(newPresetOpen(app, p, runPresetOpen))
	}
	return cmd
}

// summary is the preset in one line of the help text, with its other names.
func summary(p preset.Preset) string {
	if len(p.Aliases) == 0 {
		return p.Summary
	}
	return p.Summary + " (also: " + strings.Join(p.Aliases, ", ") + ")"
}

// word is what users call a preset: its first alias, or its name.
func word(p preset.Preset) string {
	if len(p.Aliases) > 0 {
		return p.Aliases[0]
	}
	return p.Name
}

func newPresetStart(app *App, p preset.Preset, run func(context.Context, *App, preset.Preset, startOptions) error) *cobra.Command {
	o := startOptions{}
	cmd := &cobra.Command{
		Use:   "start [FLAGS] [-- AGENT ARGS...]",
		Short: "Start " + p.Name + " in a sandbox",
		Long: `Start a sandbox with ` + p.Name + `: download and verify its image where it is
not in the cache yet, boot it, and run the agent. Where no image is published it is
built here first, once, by the preset's recipe in a sandbox.

On a terminal, the same command again in the same directory goes on with the
sandbox that it made there, and starts it where it is stopped. Of two at once the
second waits for the first, and goes on with the same. With --new, --rm or
--no-mount, and without a terminal, it makes a new one each time.

On a terminal, with --attach, or with arguments after --, the agent runs in front
of you and its exit status is handed back; otherwise the sandbox is only started.
Without a terminal at both ends the agent's three streams are three pipes. When
the agent ends the sandbox keeps running, unless --rm says otherwise. On a terminal
ctrl-p ctrl-q leaves the agent running, and so does closing the terminal, but for
--rm; 'smolvm attach' or the same command again gives it back with its screen.
A sandbox that nobody uses stops after 10 minutes, or what the setting idle_stop
says; with --keep, and with a service, it runs until it is stopped.

On a terminal the current folder is mounted read-write at /workspace, where the agent
starts; your home folder, / and SmolVM's own folders only if you name them. --mount
mounts further folders and files, or another one there; the agent reads and writes
them as you.

The agent may do everything inside the sandbox without asking: the sandbox is what
keeps it in. With --ask it keeps its own prompts.
Status 125 means that SmolVM failed.`,
		Example: "  smolvm " + word(p) + " start\n" +
			"  smolvm " + word(p) + " start -n work --cpus 2 --memory 4G\n" +
			"  smolvm " + word(p) + " start --mount .:/workspace --mount ~/data:/data:ro\n" +
			"  smolvm " + word(p) + " start --rm -- --version",
		Args:              onlyAfterDash,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Args = afterDash(cmd, args)
			o.Wish.read(cmd)
			if cmd.Flags().Changed("cpus") && o.CPUs < 1 {
				return refuse("Give a number from 1.", "--cpus %d is too few", o.CPUs)
			}
			return run(cmd.Context(), app, p, o)
		},
	}
	flags := cmd.Flags()
	flags.VarP(wordFlag{&o.Name}, "name", "n", "`NAME` of the sandbox (default "+p.Name+" and the directory's, made unique)")
	flags.IntVar(&o.CPUs, "cpus", 0, "number of CPUs (default the image's)")
	flags.Var(sizeFlag{&o.Memory}, "memory", "memory, such as 2G (default the image's)")
	flags.Var(sizeFlag{&o.Disk}, "disk", "most that the sandbox may write, such as 20G (default the image's)")
	machineFlags(cmd, &o.Arch, &o.Backend)
	app.firecrackerFlag(cmd)
	flags.BoolVar(&o.Ask, "ask", false, "keep the agent's own prompts for permission")
	flags.BoolVar(&o.New, "new", false, "make another sandbox although this directory has one")
	flags.BoolVar(&o.Remove, "rm", false, "delete the sandbox when the agent ends")
	mountFlags(cmd, &o)
	flags.BoolVar(&o.NoProject, "no-project", false, "leave this directory's "+config.ProjectFile+" out")
	flags.StringArrayVarP(&o.Publish, "publish", "p", nil, "forward `[[ADDRESS:]HOST:]PORT` of this computer to a port in the sandbox; may be repeated")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only say what would be downloaded, built and started, and how")
	flags.BoolVarP(&o.Verbose, "verbose", "v", false, "show what a local build prints")
	networkFlags(cmd, &o.Network)
	startFlags(cmd, &o)
	return cmd
}

// startFlags adds what both ways to start have.
func startFlags(cmd *cobra.Command, o *startOptions) {
	flags := cmd.Flags()
	flags.BoolVar(&o.Attach, "attach", false, "run the agent in front of you, also without a terminal")
	flags.BoolVar(&o.NoAttach, "no-attach", false, "only start the sandbox")
	giveFlags(cmd, &o.Give)
	sshAgentFlag(cmd, &o.SSHAgent)
	o.Wish.Start = true
	o.Wish.keysFlag(cmd)
	flags.Var(maybeFlag{&o.Keep}, "keep", "keep the sandbox running when nobody uses it; --keep=false: no more")
	flags.Lookup("keep").NoOptDefVal = "true"
	flags.StringVar(&o.Record, "record", "", "record the sandbox's traffic in the new `FILE` (pcap, at most 1 GiB) until it stops")
	flags.DurationVar(&o.Timeout, "timeout", defaultTimeout, "how long the boot may take")
	jsonFlag(cmd, &o.JSON, "the sandbox, or what an attached agent gave")
	handBack(cmd)
}

// maybeFlag is a switch that knows whether it was given.
type maybeFlag struct{ value **bool }

func (f maybeFlag) Set(text string) error {
	yes, err := strconv.ParseBool(text)
	*f.value = &yes
	return err
}

func (f maybeFlag) String() string { return "" }

func (f maybeFlag) Type() string { return "bool" }

// wordFlag is a flag with a word that cannot be empty: it would count as not given.
type wordFlag struct{ word *string }

func (f wordFlag) Set(text string) error {
	if text == "" {
		return errors.New("it is empty")
	}
	*f.word = text
	return nil
}

func (f wordFlag) String() string {
	if f.word == nil {
		return ""
	}
	return *f.word
}

func (f wordFlag) Type() string { return "string" }

// sizeFlag is a flag with a size such as 512M.
type sizeFlag struct{ bytes *int64 }

func (f sizeFlag) Set(text string) (err error) {
	*f.bytes, err = config.ParseSize(text)
	if err == nil && *f.bytes == 0 {
		return refuse("", "size %q is nothing", text)
	}
	return err
}

func (f sizeFlag) String() string {
	if f.bytes == nil || *f.bytes == 0 {
		return ""
	}
	return ui.Bytes(*f.bytes)
}

func (f sizeFlag) Type() string { return "SIZE" }
