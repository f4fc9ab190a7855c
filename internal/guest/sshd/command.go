//go:build linux

package sshd

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
)

// SFTPName is the name under which the agent's binary serves SFTP.
const SFTPName = "smolvm-sftp"

// command is what a client wants to run, one of the four.
type command struct {
	argv  []string // exactly this
	shell string   // a line for the user's shell
	login bool     // the user's login shell
	sftp  bool
}

// running is a resolved command, and after launch its process.
type running struct {
	path    string
	argv    []string
	env     []string
	dir     string
	account setup.Account
	process *reap.Process
	output  *output
}

func (s *session) resolve(c command, user, dir string) (*running, error) {
	if !slices.Contains(s.config.Users, user) {
		return nil, fmt.Errorf("user %q may not log in", user)
	}
	account, err := s.config.Account(user)
	if err != nil {
		return nil, err
	}
	p := &running{account: account}
	if p.dir, err = s.directory(account, dir); err != nil {
		return nil, err
	}
	env := s.environment(account)
	p.env = program.List(env)
	switch {
	case c.sftp:
		p.path, p.argv = s.config.SFTP, []string{SFTPName}
		p.dir = program.Existing(account.Home, "/") // scp's relative names are the home's
	case c.login:
		p.path, p.argv = account.Shell, []string{"-" + filepath.Base(account.Shell)}
	case c.shell != "" || len(c.argv) == 0:
		p.path, p.argv = account.Shell, []string{filepath.Base(account.Shell), "-c", c.shell}
	default:
		p.argv = c.argv
		p.path, err = program.LookPath(c.argv[0], env["PATH"], p.dir)
	}
	return p, err
}

// directory is where the program starts. One that was asked for must exist.
func (s *session) directory(account setup.Account, asked string) (string, error) {
	if asked == "" {
		return program.Existing(s.config.Workspace, account.Home, "/"), nil
	}
	if !filepath.IsAbs(asked) {
		asked = filepath.Join(program.Existing(s.config.Workspace, account.Home, "/"), asked)
	}
	info, err := os.Stat(asked)
	switch {
	case err != nil:
		return "", fmt.Errorf("directory: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("directory: %s is not a directory", asked)
	}
	return asked, nil
}

// environment joins, from the weakest to the strongest: the account's, the
// seed's, in the agent's session the credentials, the client's.
func (s *session) environment(account setup.Account) map[string]string {
	env := program.Environment(account, s.config.Environment)
	if s.pty != nil {
		env["TERM"] = cmp.Or(s.pty.term, "xterm-256color")
	}
	if s.start.Agent && s.config.Credentials != nil {
		maps.Copy(env, s.config.Credentials())
	}
	maps.Copy(env, s.env)
	program.KeepLocales(env)
	return env
}
