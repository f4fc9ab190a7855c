// Package cgroup limits a machine monitor with a control group (version 2) without
// root, where the user was given a group to rule: memory, processes, processor time.
//
// Inputs are the file systems of the kernel below a root, and numbers; outputs are a
// folder in which a program is started, so that no moment of it is outside, and
// afterwards the word whether it was killed for want of memory. What others rule,
// systemd above all, is never written to.
//
// A group is locked by whoever made it. After a crash it stays, empty, and the next
// start below the same group removes it; systemd removes the whole of a scope that it
// made.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// Wanted are the controllers that limit a machine monitor.
func Wanted() []string { return []string{memory, pids, cpu} }

// The controllers.
const (
	memory = "memory"
	pids   = "pids"
	cpu    = "cpu"
)

// Where the kernel shows groups, below System.Root.
const (
	mount   = "sys/fs/cgroup"
	members = "proc/self/cgroup"
)

// Files of a group.
const (
	processes = "cgroup.procs"
	enabled   = "cgroup.subtree_control" // for the groups below
	available = "cgroup.controllers"
)

// System is where to look, and for whom. The zero value has no groups.
type System struct {
	Root string // /, absolute
	UID  int
	User string // name of the user; empty: not known
	PID  int    // of this process
}

// Here is this computer, for this process.
func Here() System {
	s := System{Root: "/", UID: os.Getuid(), PID: os.Getpid()}
	if u, err := user.LookupId(strconv.Itoa(s.UID)); err == nil {
		s.User = u.Username
	}
	return s
}

// Base is a group of the user's below which groups can be made.
type Base struct {
	// Controllers are those of Wanted that can be had.
	Controllers []string
	dir         string
	inside      bool // this process is in it, and has to leave before controllers are enabled
}

// Find finds the group that the user rules. It is the one that this process is in, if
// no other process is, or else the next above that holds none; below the user's own
// systemd never one above, as systemd rules those. The error says why there is none,
// and what would give one.
func (s System) Find() (*Base, error) {
	own, err := s.own()
	if err != nil {
		return nil, err
	}
	managed := s.managed(own)
	if s.UID == 0 && !managed {
		return nil, fault.New(fault.Host, "Run smolvm as an ordinary user.", "root may write to every control group, and was given none")
	}
	var why error
	for at := own; at != "/"; at = path.Dir(at) {
		base, err := s.look(at, at == own)
		if err == nil {
			return base, nil
		}
		if why == nil {
			why = err
		}
		if managed {
			break
		}
	}
	if why == nil {
		why = errors.New("this process is in the root of the control groups")
	}
	return nil, fault.New(fault.Host, s.hint(managed), "%w", why)
}

// own is the group that this process is in: a path from the root of all that it sees.
func (s System) own() (string, error) {
	if !filepath.IsAbs(s.Root) {
		return "", fault.New(fault.Host, "", "no control group was looked for")
	}
	text, err := os.ReadFile(filepath.Join(s.Root, members))
	if errors.Is(err, os.ErrNotExist) {
		return "", fault.New(fault.Host, "", "this system has no control groups")
	}
	if err != nil {
		return "", fault.New(fault.Host, "", "find the control group of this process: %w", err)
	}
	if _, err := os.Stat(filepath.Join(s.Root, mount, available)); err != nil {
		return "", fault.New(fault.Host, "Boot Linux with systemd.unified_cgroup_hierarchy=1.",
			"this system has no control groups of version 2 at /%s, or keeps its controllers in version 1", mount)
	}
	for line := range strings.Lines(string(text)) {
		name, unified := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !unified {
			continue
		}
		if !path.IsAbs(name) || path.Clean(name) != name || strings.HasPrefix(name, "/..") {
			return "", fault.New(fault.Host, "", "the control group of this process, %q, is not within what it can see", name)
		}
		return name, nil
	}
	return "", fault.New(fault.Host, "", "this process is in no control group of version 2")
}

// managed tells whether the user's own systemd rules a group.
func (s System) managed(group string) bool {
	return slices.Contains(strings.Split(group, "/"), s.manager())
}

func (s System) manager() string { return fmt.Sprintf("user@%d.service", s.UID) }

// look says whether groups can be made below one.
func (s System) look(group string, inside bool) (*Base, error) {
	dir := filepath.Join(s.Root, mount, group)
	for _, name := range []string{"", processes, enabled} {
		if owner, err := ownerOf(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("look at control group %s: %w", group, err)
		} else if owner != s.UID {
			return nil, fmt.Errorf("the control group of this login, %s, was not given to its user", group)
		}
	}
	others, err := s.others(dir)
	if err != nil {
		return nil, fmt.Errorf("look at control group %s: %w", group, err)
	}
	if others {
		return nil, fmt.Errorf("other processes are in control group %s too", group)
	}
	b := &Base{dir: dir, inside: inside}
	if b.Controllers, err = controllersOf(dir); err != nil {
		return nil, fmt.Errorf("look at control group %s: %w", group, err)
	}
	if len(b.Controllers) == 0 {
		return nil, fmt.Errorf("control group %s has none of the controllers %s", group, strings.Join(Wanted(), ", "))
	}
	return b, nil
}

// others tells whether a group holds a process besides this one.
func (s System) others(dir string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, processes))
	if err != nil {
		return false, err
	}
	self := strconv.Itoa(s.PID)
	return slices.ContainsFunc(strings.Fields(string(text)), func(pid string) bool { return pid != self }), nil
}

// controllersOf are the wanted controllers that a group has.
func controllersOf(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, available))
	if err != nil {
		return nil, err
	}
	has := strings.Fields(string(text))
	return slices.DeleteFunc(Wanted(), func(name string) bool { return !slices.Contains(has, name) }), nil
}

// Missing are the wanted controllers that are not among those given.
func Missing(controllers []string) []string {
	return slices.DeleteFunc(Wanted(), func(name string) bool { return slices.Contains(controllers, name) })
}
