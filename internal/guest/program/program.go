//go:build linux

// Package program is what sessions and services have in common when they start a
// program: the user's environment, the search for the file, the locale that the
// system has.
//
// Inputs are an account and the image's files; outputs are values. Nothing is kept.
package program

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

	"github.com/smolvm/smolvm/internal/guest/setup"
)

// ErrNotFound marks a program that does not exist: status 127.
var ErrNotFound = errors.New("not found")

// DefaultPath is Debian's for root, which other users may have as well.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// PowerDir holds the power commands; images have no init system of their own.
const PowerDir = "/run/smolvm/bin"

// Environment is what a user's programs find, with own over it: the seed's
// variables. Callers add theirs and then KeepLocales.
func Environment(account setup.Account, own map[string]string) map[string]string {
	env := map[string]string{
		"HOME":    account.Home,
		"USER":    account.Name,
		"LOGNAME": account.Name,
		"SHELL":   account.Shell,
		"PATH":    strings.Join([]string{filepath.Join(account.Home, ".local/bin"), DefaultPath, PowerDir}, ":"),
		"LANG":    fallbackLocale,
	}
	if runtime := fmt.Sprintf("/run/user/%d", account.UID); Existing(runtime) == runtime {
		env["XDG_RUNTIME_DIR"] = runtime
	}
	maps.Copy(env, own)
	return env
}

// List is an environment as programs get it, in order.
func List(env map[string]string) []string {
	words := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		words = append(words, name+"="+env[name])
	}
	return words
}

// Credential is what makes a process the account's, nil where it is that anyway.
func Credential(account setup.Account) *syscall.Credential {
	if me := os.Getuid(); me != 0 && uint32(me) == account.UID {
		return nil
	}
	return &syscall.Credential{Uid: account.UID, Gid: account.GID, Groups: account.Groups}
}

// Existing is the first of some folders that is there, or the root.
func Existing(dirs ...string) string {
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return "/"
}

// LookPath finds a program as execvp does, in the PATH given. A file that is
// there but cannot be run counts only when no other can.
func LookPath(name, path, dir string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("empty program name: %w", ErrNotFound)
	}
	if strings.Contains(name, "/") {
		return check(name, name, dir)
	}
	var denied error
	for _, place := range strings.Split(path, ":") {
		file, err := check(name, filepath.Join(cmp.Or(place, "."), name), dir)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, ErrNotFound) {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", fmt.Errorf("%s: %w", name, ErrNotFound)
}

func check(name, file, dir string) (string, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%s: %w", name, ErrNotFound)
	case err != nil:
		return "", fmt.Errorf("%s: %w", name, err)
	case info.IsDir():
		return "", fmt.Errorf("%s: is a directory", name)
	case info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s: %w", name, os.ErrPermission)
	}
	return file, nil
}
