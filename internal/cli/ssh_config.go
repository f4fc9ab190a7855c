package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

// sshHostSuffix keeps the hosts of sandboxes apart from all others.
const sshHostSuffix = ".smolvm"

// sshConfigOptions are what `ssh-config` was asked for.
type sshConfigOptions struct {
	Name string // empty: all
	JSON bool
}

// sshConfigView is the data of `ssh-config --json`.
type sshConfigView struct {
	Path    string        `json:"path"`
	Include string        `json:"include"` // the line for ~/.ssh/config
	Hosts   []sshHostView `json:"hosts"`
}

// sshHostView is one Host block.
type sshHostView struct {
	Sandbox      string `json:"sandbox"`
	Host         string `json:"host"`
	User         string `json:"user"`
	ProxyCommand string `json:"proxy_command"`
	IdentityFile string `json:"identity_file"`
	KnownHosts   string `json:"known_hosts"`
}

func newSSHConfig(app *App, run func(context.Context, *App, sshConfigOptions) error) *cobra.Command {
	o := sshConfigOptions{}
	cmd := &cobra.Command{
		Use:   "ssh-config [NAME]",
		Short: "Print what ssh, scp, rsync, sftp and editors need to reach sandboxes",
		Long: `Print OpenSSH's settings for a sandbox, or for all: a Host block each, with its
key, its pinned host key and the command that carries the connection. All blocks
are kept in the file ssh_config of the state folder too, and follow when a
sandbox is made, renamed or deleted, or when the state folder is moved.

With one line at the top of ~/.ssh/config, which is printed, 'ssh NAME.smolvm'
works, and so do scp, sftp, rsync and editors that use ssh.`,
		Example: `  smolvm ssh-config
  smolvm ssh-config claude-code > config && ssh -F config claude-code.smolvm
  scp notes.txt claude-code.smolvm:/workspace/
  rsync -a src/ claude-code.smolvm:/workspace/src/`,
		Args:              arguments(0, 1),
		ValidArgsFunction: app.completeFirst(anySandbox),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = strings.Join(args, "")
			return run(cmd.Context(), app, o)
		},
	}
	jsonFlag(cmd, &o.JSON, "the file and its hosts")
	return cmd
}

func runSSHConfig(_ context.Context, app *App, o sshConfigOptions) error {
	boxes, err := app.Sandboxes()
	if err != nil {
		return err
	}
	names, err := boxes.Names()
	if err != nil {
		return err
	}
	if o.Name != "" {
		if _, _, err := app.one(o.Name); err != nil {
			return err
		}
		names = []string{o.Name}
	}
	c, err := app.Config()
	if err != nil {
		return err
	}
	book, err := record.Open(c.Home)
	if err != nil {
		return err
	}
	view := sshConfigView{Path: record.SSHConfig(c.Home), Include: includeLine(c.Home), Hosts: app.sshHosts(book, c, names)}
	if o.JSON {
		return ui.WriteData(app.Streams.Out, view)
	}
	for _, host := range view.Hosts {
		if _, err := io.WriteString(app.Streams.Out, host.block()); err != nil {
			return err
		}
	}
	app.Streams.Say("For all sandboxes, now and later, put this line at the top of ~/.ssh/config:")
	app.Streams.Say("%s", view.Include)
	return nil
}

// includeLine is what the user's own configuration of ssh needs. OpenSSH splits it
// into words first, and then looks for wildcards in them.
func includeLine(home string) string {
	quoted := strings.NewReplacer(`"`, `\"`, `*`, `\\*`, `?`, `\\?`, `[`, `\\[`, `\`, `\\\\`).Replace(record.SSHConfig(home))
	return `Include "` + quoted + `"`
}

// keepSSHConfig makes the file of all Host blocks right. Nothing else depends on
// it, so a failure is said and no more.
func (a *App) keepSSHConfig(book *record.Book, c config.Config) {
	err := book.KeepSSHConfig(func(names []string) string {
		var text strings.Builder
		text.WriteString("# Kept by smolvm: what is changed here is lost.\n# At the top of ~/.ssh/config: " + includeLine(c.Home) + "\n")
		for _, host := range a.sshHosts(book, c, names) {
			text.WriteString(host.block())
		}
		return text.String()
	})
	if err != nil {
		a.Streams.Say("smolvm: the file ssh_config of the state folder stays as it was: %v", err)
	}
}

// sshHosts are the Host blocks of sandboxes.
func (a *App) sshHosts(book *record.Book, c config.Config, names []string) []sshHostView {
	hosts := make([]sshHostView, 0, len(names))
	for _, name := range names {
		folder := book.Folder(name)
		hosts = append(hosts, sshHostView{
			Sandbox: name, Host: name + sshHostSuffix, User: wire.AgentUser,
			ProxyCommand: proxyAt(a.Self, name, c.Home), IdentityFile: folder.ClientKey(), KnownHosts: folder.KnownHosts(),
		})
	}
	return hosts
}

// block is the host for ssh. What it says counts before all that comes later in the
// user's own file: a general "ForwardAgent yes" there does not reach a sandbox.
func (h sshHostView) block() string {
	return fmt.Sprintf(`
Host %s
  HostName %s
  User %s
  ProxyCommand %s
  IdentityFile %s
  IdentitiesOnly yes
  HostKeyAlias %s
  UserKnownHostsFile %s
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  UpdateHostKeys no
  ForwardAgent no
  ForwardX11 no
`, h.Host, h.Host, h.User, h.ProxyCommand, sshQuote(h.IdentityFile), h.Sandbox, sshQuote(h.KnownHosts))
}
