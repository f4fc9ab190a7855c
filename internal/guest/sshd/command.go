//go:build linux

package sshd

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
)

// errNotFound marks a program that does not exist: status 127.
var errNotFound = errors.New("not found")

// SFTPName is the name under which the agent's binary serves SFTP.
const SFTPName = "smolvm-sftp"

// defaultPath is Debian's for root, which other users may have as well.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// PowerDir holds the power commands; images have no init system of their own.
const PowerDir = "/run/smolvm/bin"

// command is what a client wants to run, one of the four.
type command struct {
	argv  []string // exactly this
	shell string   // a line for the user's shell
	login bool     // the user's login shell
	sftp  bool
}

// program is a resolved command, and after launch its process.
type program struct {
	path    string
	argv    []string
	env     []string
	dir     string
	account setup.Account
	process *reap.Process
	output  *output
}

func (s *session) resolve(c command, user, dir string) (*program, error) {
	if !slices.Contains(s.config.Users, user) {
		return nil, fmt.Errorf("user %q may not log in", user)
	}
	account, err := s.config.Account(user)
	if err != nil {
		return nil, err
	}
	p := &program{account: account}
	if p.dir, err = s.directory(account, dir); err != nil {
		return nil, err
	}
	env := s.environment(account)
	p.env = list(env)
	switch {
	case c.sftp:
		p.path, p.argv = s.config.SFTP, []string{SFTPName}
		p.dir = existing(account.Home, "/") // scp's relative names are the home's
	case c.login:
		p.path, p.argv = account.Shell, []string{"-" + filepath.Base(account.Shell)}
	case c.shell != "" || len(c.argv) == 0:
		p.path, p.argv = account.Shell, []string{filepath.Base(account.Shell), "-c", c.shell}
	default:
		p.argv = c.argv
		p.path, err = lookPath(c.argv[0], env["PATH"], p.dir)
	}
	return p, err
}

// directory is where the program starts. One that was asked for must exist.
func (s *session) directory(account setup.Account, asked string) (string, error) {
	if asked == "" {
		return existing(s.config.Workspace, account.Home, "/"), nil
	}
	if !filepath.IsAbs(asked) {
		asked = filepath.Join(existing(s.config.Workspace, account.Home, "/"), asked)
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

func existing(dirs ...string) string {
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return "/"
}

// environment joins, from the weakest to the strongest: the account's, the
// seed's, the client's.
func (s *session) environment(account setup.Account) map[string]string {
	env := map[string]string{
		"HOME":    account.Home,
		"USER":    account.Name,
		"LOGNAME": account.Name,
		"SHELL":   account.Shell,
		"PATH":    strings.Join([]string{filepath.Join(account.Home, ".local/bin"), defaultPath, PowerDir}, ":"),
		"LANG":    fallbackLocale,
	}
	if runtime := fmt.Sprintf("/run/user/%d", account.UID); existing(runtime) == runtime {
		env["XDG_RUNTIME_DIR"] = runtime
	}
	maps.Copy(env, s.config.Environment)
	if s.pty != nil {
		env["TERM"] = cmp.Or(s.pty.term, "xterm-256color")
	}
	maps.Copy(env, s.env)
	keepLocales(env, localeFolder)
	return env
}

func list(env map[string]string) []string {
	words := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		words = append(words, name+"="+env[name])
	}
	return words
}

// lookPath finds a program as execvp does, with the session's own PATH. A file
// that is there but cannot be run counts only when no other can.
func lookPath(name, path, dir string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("empty program name: %w", errNotFound)
	}
	if strings.Contains(name, "/") {
		return checkProgram(name, name, dir)
	}
	var denied error
	for _, place := range strings.Split(path, ":") {
		file, err := checkProgram(name, filepath.Join(cmp.Or(place, "."), name), dir)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, errNotFound) {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("%s: %w", name, errNotFound)
}

func checkProgram(name, file, dir string) (string, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%s: %w", name, errNotFound)
	case err != nil:
		return "", fmt.Errorf("%s: %w", name, err)
	case info.IsDir():
		return "", fmt.Errorf("%s: is a directory", name)
	case info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s: %w", name, os.ErrPermission)
	}
	return file, nil
}
