package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/config"
	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/preset"
	"github.com/smolvm/smolvm/internal/process"
)

// keychainTimeout is how long a keychain may take, which asks its owner first.
const keychainTimeout = 2 * time.Minute

// source says where a credential is taken from: env:VARIABLE, file:PATH or
// keychain:ITEM.
type source struct{ name, kind, at string }

const sourceHint = "Write --credential NAME=env:VARIABLE, NAME=file:PATH or NAME=keychain:ITEM."

func parseSource(text string) (source, error) {
	name, from, named := strings.Cut(text, "=")
	if !named { // it may be the value itself
		return source{}, refuse(sourceHint, "--credential says neither name nor source")
	}
	kind, at, found := strings.Cut(from, ":")
	if !found || name == "" || at == "" || !slices.Contains([]string{"env", "file", "keychain"}, kind) {
		// What follows the = may be the value: it is not repeated.
		return source{}, refuse(sourceHint, "--credential %.60q says no source", name)
	}
	return source{name, kind, at}, nil
}

func (s source) String() string { return s.name + "=" + s.kind + ":" + s.at }

// sources are those that were named, or else those of the sandbox's last start, and
// their values.
func (a *App) sources(ctx context.Context, c config.Config, p preset.Preset, o giveOptions, st standing) ([]source, map[string]string, error) {
	if o.NoCredentials && len(o.Credentials) > 0 {
		return nil, nil, refuse("Give one of them.", "--credential and --no-credentials exclude each other")
	}
	texts, remembered := o.Credentials, false
	if len(texts) == 0 && !o.NoCredentials {
		texts, remembered = st.remembered, true
	}
	var all []source
	values := map[string]string{}
	for _, text := range texts {
		s, err := parseSource(text)
		if err != nil {
			return nil, nil, err
		}
		if _, twice := values[s.name]; twice {
			return nil, nil, refuse("Name one source.", "--credential %s is there twice", s.name)
		}
		if err := a.suits(p, s, o); err != nil {
			return nil, nil, err
		}
		if s.kind == "file" {
			s.at = a.absolute(s.at)
		}
		if values[s.name], err = a.fetchSource(ctx, c, s); err != nil {
			return nil, nil, sourceFault(s, remembered, err)
		}
		all = append(all, s)
	}
	return all, values, nil
}

// suits refuses a credential that no rule is for, before its source is read.
func (a *App) suits(p preset.Preset, s source, o giveOptions) error {
	if len(p.CredentialRules(s.name)) == 0 {
		var names []string
		for _, rule := range p.Credentials {
			if !slices.Contains(names, rule.Name) {
				names = append(names, rule.Name)
			}
		}
		hint := "Give it by -e " + s.name + " where the sandbox may see it."
		if len(names) > 0 {
			hint = "There are rules for " + strings.Join(names, ", ") + ". " + hint
		}
		return refuse(hint, "--credential %.60s: preset %s has no rule that says where it belongs", s.name, p.Name)
	}
	for _, entry := range o.Env {
		if name, _, _ := strings.Cut(entry, "="); name == s.name {
			return refuse("Give one of them.", "--credential keeps %s from the sandbox, -e %s puts it in", s.name, s.name)
		}
	}
	return nil
}

func sourceFault(s source, remembered bool, err error) error {
	hint := s.hint()
	if remembered {
		hint = "It is read at every start. Make it available, name another source with --credential, or start with --no-credentials."
	}
	return fault.New(fault.Usage, hint, "take %s from %s:%s: %w", s.name, s.kind, s.at, err)
}

// hint says how a source is made one.
func (s source) hint() string {
	switch {
	case s.kind == "env":
		return fmt.Sprintf("Set it in this shell (export %s), or name another source: %s=file:PATH, %s=keychain:ITEM.", s.at, s.name, s.name)
	case s.kind == "file":
		return "Name a file with nothing but the secret in it, which you can read."
	case runtime.GOOS == "darwin":
		return fmt.Sprintf(`Put it there: security add-generic-password -s %s -a "$USER" -w`, shellQuote(s.at))
	}
	return fmt.Sprintf("Put it there: secret-tool store --label %[1]s service %[1]s", shellQuote(s.at))
}

// absolute is the path of a file that a flag names.
func (a *App) absolute(path string) string {
	if below, ok := strings.CutPrefix(path, "~/"); ok && a.UserHome != "" {
		return filepath.Join(a.UserHome, below)
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(a.Directory, path)
}

// fetchSource takes a credential from where it is.
func (a *App) fetchSource(ctx context.Context, c config.Config, s source) (value string, err error) {
	switch s.kind {
	case "env":
		if value = c.Getenv(s.at); value == "" {
			return "", errors.New("the variable is not set here")
		}
	case "file":
		value, err = a.readSecret(s.at)
	case "keychain":
		value, err = a.askKeychain(ctx, s.at)
	}
	if err != nil {
		return "", err
	}
	value = strings.TrimRight(value, "\r\n")
	return value, escrow.Check(value)
}

// readSecret reads a file with one secret in it.
func (a *App) readSecret(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is not a regular file")
	}
	if info.Mode().Perm()&0o077 != 0 {
		a.warn("Others on this computer can open %s, which has a secret in it: chmod 600 it.", path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, escrow.MaxSecret+3))
	return string(raw), err
}

// askKeychain takes an item from the user's keychain: on macOS a generic password
// of that service, elsewhere what the Secret Service has under the attribute service.
func (a *App) askKeychain(ctx context.Context, item string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, keychainTimeout)
	defer cancel()
	cmd := a.runner().Command(ctx, process.SecretTool, "lookup", "service", item)
	if runtime.GOOS == "darwin" {
		cmd = a.runner().Command(ctx, process.Security, "find-generic-password", "-w", "-s", item)
	}
	out, err := process.Output(cmd)
	if status, ended := process.ExitStatus(err); err != nil && ended && status == 1 {
		return "", errors.New("there is no such item")
	}
	return string(out), err
}
