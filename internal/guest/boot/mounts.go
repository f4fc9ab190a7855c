//go:build linux

// Package boot brings the machine from the kernel's first process to a root file
// system: pseudo file systems, modules, drives, layers, scratch, and the switch
// of the root. It takes what the kernel command line says and leaves mounts; the
// only thing that survives a crash is the scratch file system, whose
// half-finished parts (home.part, upper without its mark) the next boot discards.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one entry of a table of mounts.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	optional             bool // the kernel may lack it
}

const plain = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// MountEarly mounts what the agent itself needs before there is a root.
func MountEarly() error {
	return mountAll([]mount{
		{"proc", "/proc", "proc", plain, "", false},
		{"sysfs", "/sys", "sysfs", plain, "", false},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", false},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755", false},
	})
}

// MountLate mounts the rest, which only programs in sessions need.
func MountLate() error {
	err := mountAll([]mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666", false},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", false},
		{"mqueue", "/dev/mqueue", "mqueue", plain, "", true},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", plain, "nsdelegate,memory_recursiveprot", true},
	})
	if err != nil {
		return err
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link /dev/%s: %w", name, err)
		}
	}
	if err := makeLockDir(); err != nil {
		return err
	}
	// No udev runs that would open these to users.
	for _, node := range []string{"/dev/fuse", "/dev/net/tun"} {
		if err := os.Chmod(node, 0o666); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("open %s to users: %w", node, err)
		}
	}
	return nil
}

// makeLockDir makes the folder that /var/lock leads to, open to all like /tmp.
func makeLockDir() error {
	if err := os.MkdirAll("/run/lock", 0o755); err != nil {
		return fmt.Errorf("make lock folder: %w", err)
	}
	if err := os.Chmod("/run/lock", 0o777|os.ModeSticky); err != nil {
		return fmt.Errorf("make lock folder: %w", err)
	}
	return nil
}

func mountAll(table []mount) error {
	for _, m := range table {
		if err := m.do(); err != nil && !(m.optional && errors.Is(err, unix.ENODEV)) {
			return err
		}
	}
	return nil
}

// do makes the target and mounts; a mount of the same kind that is already
// there is fine.
func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", m.target, err)
	}
	err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s at %s: %w", strings.TrimSpace(m.kind+" "+m.source), m.target, err)
	}
	return nil
}

// Bind makes source visible at target, which is made when missing: a folder
// for a folder, an empty file for a file.
func Bind(source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else {
		err = touch(target)
	}
	if err != nil {
		return fmt.Errorf("make mount point %s: %w", target, err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount %s at %s: %w", source, target, err)
	}
	return nil
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return file.Close()
}

// SwitchRoot makes newRoot the root of the agent and of all that it starts. The
// pseudo file systems move along. The initramfs stays mounted underneath, out
// of reach, and keeps only the agent's binary.
func SwitchRoot(newRoot string) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := move(dir, newRoot+dir); err != nil {
			return err
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", newRoot, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	// Containers in the sandbox expect shared propagation, as systemd sets it up.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

func move(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", to, err)
	}
	if err := unix.Mount(from, to, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	return nil
}
