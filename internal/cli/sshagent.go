package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/smolvm/smolvm/internal/fault"
)

// sshAgentFlag adds the one way in which a sandbox may use the user's SSH keys.
func sshAgentFlag(cmd *cobra.Command, value *bool) {
	cmd.Flags().BoolVar(value, "ssh-agent", false, "let the program use your SSH agent while it is in front of you; the keys stay here")
}

// sshAgent is the socket of the user's SSH agent, where it is wanted.
func (a *App) sshAgent(wanted bool) (string, error) {
	if !wanted {
		return "", nil
	}
	c, err := a.Config()
	if err != nil {
		return "", err
	}
	const hint = "Start one with eval \"$(ssh-agent)\" and ssh-add, or leave --ssh-agent out."
	path := c.Getenv("SSH_AUTH_SOCK")
	switch {
	case path == "":
		return "", fault.New(fault.Usage, hint, "--ssh-agent: no SSH agent runs here: SSH_AUTH_SOCK is not set")
	case !filepath.IsAbs(path):
		return "", fault.New(fault.Usage, hint, "--ssh-agent: SSH_AUTH_SOCK is %q, which is not a whole path", path)
	}
	return path, nil
}
