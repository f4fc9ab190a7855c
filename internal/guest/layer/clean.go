//go:build linux

package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What a running system leaves behind and no layer may ship: paths below the
// root, with shell patterns. Nothing here is part of what a recipe installs.
var (
	// emptied directories lose all that is in them.
	emptied = []string{
		"dev", "proc", "sys", "run", "tmp", "var/tmp", "var/lib/apt/lists",
		"var/cache/apt/archives/partial", "root/.npm", "home/*/.npm",
	}
	// logs lose their files and keep their directories, which daemons expect.
	logs = []string{"var/log"}
	// removed goes away, files and directories alike.
	removed = []string{
		"etc/hostname", "etc/hosts", "etc/resolv.conf", // the agent writes them at every boot
		"etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed",
		"var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "var/cache/apt/archives/lock",
		"var/cache/debconf/*-old", "var/lib/dpkg/*-old", "var/lib/dpkg/lock*",
		"var/cache/ldconfig/aux-cache", // holds inode numbers
		"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
		"etc/.pwd.lock", "root/.*_history", "home/*/.*_history", "root/.lesshst", "home/*/.lesshst",
		"root/.wget-hsts", "home/*/.wget-hsts",
	}
)

// machineIDFile names one machine, so a layer has it empty.
const machineIDFile = "etc/machine-id"

// Clean removes from the tree what must not ship. A base keeps an empty
// /etc/machine-id; a layer above it has none of its own.
func Clean(dir string, base bool) error {
	for _, pattern := range emptied {
		if err := each(dir, pattern, empty); err != nil {
			return err
		}
	}
	for _, pattern := range logs {
		if err := each(dir, pattern, removeFiles); err != nil {
			return err
		}
	}
	for _, pattern := range removed {
		if err := each(dir, pattern, os.RemoveAll); err != nil {
			return err
		}
	}
	id := filepath.Join(dir, machineIDFile)
	if err := os.RemoveAll(id); err != nil {
		return fmt.Errorf("clean layer: %w", err)
	}
	if base {
		if err := os.MkdirAll(filepath.Dir(id), 0o755); err != nil {
			return fmt.Errorf("clean layer: %w", err)
		}
		if err := os.WriteFile(id, nil, 0o444); err != nil {
			return fmt.Errorf("clean layer: %w", err)
		}
	}
	return nil
}

func each(dir, pattern string, do func(string) error) error {
	matches, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return fmt.Errorf("clean layer: pattern %s: %w", pattern, err)
	}
	for _, match := range matches {
		if err := do(match); err != nil {
			return fmt.Errorf("clean layer: %w", err)
		}
	}
	return nil
}

// empty removes what is in a directory; a link or a file of that name stays.
func empty(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func removeFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
