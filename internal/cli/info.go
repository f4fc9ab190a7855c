package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// infoOptions are what `info` was asked for.
type infoOptions struct {
	Name string
	JSON bool
}

// sandboxInfo is one sandbox in full.
type sandboxInfo struct {
	sandboxView
	Folder  string  `json:"folder"`
	Console string  `json:"console"` // path of the console's log
	Layers  []layer `json:"layers"`
	SSH     sshInfo `json:"ssh"`
	// Listening is what programs of a running sandbox listen on.
	Listening []listeningView `json:"listening"`
}

type listeningView struct {
	Port      int    `json:"port"`
	Address   string `json:"address"`
	Program   string `json:"program"`
	Forwarded bool   `json:"forwarded"`
}

type layer struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
}

// sshInfo is what an SSH client of the user's own needs.
type sshInfo struct {
	User         string `json:"user"`
	ProxyCommand string `json:"proxy_command"`
	IdentityFile string `json:"identity_file"`
	KnownHosts   string `json:"known_hosts"`
	Command      string `json:"command"` // all of it, to be pasted into a shell
}

func newInfo(app *App, run func(context.Context, *App, infoOptions) error) *cobra.Command {
	o := infoOptions{}
	cmd := &cobra.Command{
		Use:   "info NAME",
		Short: "Show one sandbox: state, image, kernel, paths, SSH",
		Example: `  smolvm info claude-code
  smolvm info claude-code --json`,
		Args:              arguments(1, 1),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the sandbox")
	return cmd
}

func runInfo(ctx context.Context, app *App, o infoOptions) error {
	boxes, s, err := app.one(o.Name)
	if err != nil {
		return err
	}
	folder, err := app.folder(o.Name)
	if err != nil {
		return err
	}
	c, err := app.Config()
	if err != nil {
		return err
	}
	info := app.infoOf(s, folder, c)
	if s.State == sandbox.Running {
		app.askPorts(ctx, boxes, &info)
	}
	app.askLive(ctx, boxes, []sandbox.Status{s})[s.Name].add(&info.sandboxView)
	if o.JSON {
		return ui.WriteData(app.Streams.Out, info)
	}
	_, err = fmt.Fprint(app.Streams.Out, info.text(app.sheet(), app.Now()))
	return err
}

func (a *App) infoOf(s sandbox.Status, folder record.Folder, c config.Config) sandboxInfo {
	info := sandboxInfo{
		sandboxView: a.viewOf(s), Folder: folder.Dir(), Console: folder.Console(), Layers: []layer{}, Listening: []listeningView{},
		SSH: sshInfo{
			User:         wire.AgentUser,
			ProxyCommand: proxyCommand(a.Self, s.Name, c),
			IdentityFile: folder.ClientKey(),
			KnownHosts:   folder.KnownHosts(),
		},
	}
	info.SSH.Command = strings.Join([]string{
		"ssh", "-o", shellQuote("ProxyCommand=" + info.SSH.ProxyCommand), "-l", wire.AgentUser,
		"-o", shellQuote("IdentityFile=" + sshQuote(folder.ClientKey())), "-o", "IdentitiesOnly=yes",
		"-o", shellQuote("UserKnownHostsFile=" + sshQuote(folder.KnownHosts())), "-o", "StrictHostKeyChecking=yes", s.Name,
	}, " ")
	for _, l := range s.Image.Layers {
		info.Layers = append(info.Layers, layer(l))
	}
	return info
}

// proxyCommand carries an SSH connection to a sandbox. It is run by ssh, maybe
// from another shell, so it names a state folder that is not the usual one.
func proxyCommand(self, name string, c config.Config) string {
	if c.OwnHome() {
		return proxyAt(self, name, c.Home)
	}
	return sshTokens(shellQuote(self) + " ssh --stdio " + name)
}

// proxyAt is such a command that names the state folder in any case.
func proxyAt(self, name, home string) string {
	return sshTokens("env " + shellQuote("SMOLVM_HOME="+home) + " " + shellQuote(self) + " ssh --stdio " + name)
}

// sshTokens keeps ssh from its own use for %.
func sshTokens(command string) string { return strings.ReplaceAll(command, "%", "%%") }

// sshQuote quotes a path for an option of OpenSSH.
func sshQuote(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(path) + `"`
}

// shellQuote quotes a word for a POSIX shell where it needs that.
func shellQuote(word string) string {
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:@,+", r)
	}) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// text is the sandbox for people, a line for each fact that there is. Of a broken
// one little is known.
func (i sandboxInfo) text(out *sheet, now time.Time) string {
	line := out.fact
	line("name", i.Name)
	line("state", i.State)
	line("stops", i.Idle.text(now))
	if i.Unused {
		line("ended", ui.Age(now, *i.Stopped)+" ago, as nobody used it")
	}
	for _, t := range i.Troubles {
		line("trouble", t.text(now))
	}
	line("error", i.LastError)
	line("preset", i.Preset)
	line("directory", i.Directory)
	line("agent", strings.TrimSpace(i.Agent.Name+" "+i.Agent.Version))
	line("image", i.Release)
	if i.Newer != nil {
		line("newer", fmt.Sprintf("%s: smolvm update %s", i.Newer.text(), i.Name))
	}
	line("kernel", kernelText(i.Kernel))
	if i.State != sandbox.Broken {
		line("machine", machineText(i))
		line("limits", i.Limits.text())
		line("cpus", strconv.Itoa(i.CPUs))
		line("memory", ui.Bytes(i.MemoryMiB<<20)+i.Memory.text())
		line("disk", fmt.Sprintf("%s, of which %s are used on this computer", ui.Bytes(i.DiskBytes), ui.Bytes(i.OnDisk)))
		line("created", ui.Age(now, i.Created)+" ago")
	}
	for _, m := range i.Mounts {
		line("mount", m.text())
	}
	line("watched", i.Watch.text())
	if i.State != sandbox.Broken {
		line("network", i.Network.text())
	}
	for _, text := range i.portLines() {
		line("port", text)
	}
	for _, s := range i.Services {
		line("service", fmt.Sprintf("%s: %s", s.Name, strings.Join(s.Run, " ")))
	}
	for _, s := range i.Sessions {
		line("session", s.text(now))
	}
	if i.Boot != nil {
		line("boot", fmt.Sprintf("ready %s after the kernel started", ui.Elapsed(time.Duration(i.Boot.UptimeMS)*time.Millisecond)))
	}
	line("folder", i.Folder)
	if i.State != sandbox.Broken {
		line("ssh", i.SSH.Command)
	}
	return out.String()
}

// kernelText names the kernel, and whose it is when it is not SmolVM's own.
func kernelText(k kernelView) string {
	if k.StandIn == "" {
		return k.Version
	}
	return fmt.Sprintf("%s (stand-in: %s)", k.Version, k.StandIn)
}

// machineText says what runs the sandbox, and how fast to expect it.
func machineText(i sandboxInfo) string {
	text := fmt.Sprintf("%s, %s, %s", i.VMM, i.Accel, i.Arch)
	if i.Accel == "tcg" {
		text += " (emulated: slow)"
	}
	switch i.Cage {
	case record.Caged:
		text += ", in a cage"
	case record.Uncaged:
		text += ", not in a cage"
	}
	return text
}
