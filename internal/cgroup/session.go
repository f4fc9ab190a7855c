package cgroup

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/fault"
)

// linger is where logind notes whose systemd stays when the user has logged out.
const linger = "var/lib/systemd/linger"

// Scoped tells whether the user's own systemd should give a process that outlives
// this one a scope, a group of its own: it can, and stays as long as the process would
// have otherwise. That is so where this process is below it already, and where it
// lingers: it ends everything below it when it ends.
func (s System) Scoped() bool {
	own, err := s.own()
	return err == nil && (s.managed(own) || s.lingers())
}

func (s System) lingers() bool {
	if s.User == "" || s.UID == 0 {
		return false
	}
	_, err := os.Stat(filepath.Join(s.Root, linger, s.User))
	return err == nil
}

// hint is what would give a group where Find finds none.
func (s System) hint(managed bool) string {
	switch {
	case managed:
		return "systemd-run, a part of systemd, has to be there and reach the user's own systemd (XDG_RUNTIME_DIR)."
	case s.User != "" && !s.lingers():
		return fmt.Sprintf("Where systemd runs, let the user's own stay after the logout: loginctl enable-linger, or, where that is denied, "+
			"sudo loginctl enable-linger %s. Then start the sandbox again.", s.User)
	}
	return ""
}

// Outlook is what a sandbox that this process starts will get.
type Outlook struct {
	Scoped      bool     // of a scope that systemd makes; else of a group that is here
	Controllers []string // of Wanted; none: it gets no group
	Why         error    // why it gets none; nil: it does
}

// Look foretells what Find will find for a process that this one starts.
func (s System) Look() Outlook {
	if !s.Scoped() {
		return s.lookHere()
	}
	o := Outlook{Scoped: true}
	o.Controllers, o.Why = controllersOf(s.managerDir())
	switch {
	case o.Why != nil:
		o.Why = fault.New(fault.Host, "", "look at what systemd gives its users: %w", o.Why)
	case len(o.Controllers) == 0:
		o.Why = fault.New(fault.Host, "", "systemd gives its users no controllers")
	case !entersGroups():
		o.Why = errKernel()
	}
	return o
}

// managerDir is the group of the user's own systemd.
func (s System) managerDir() string {
	return filepath.Join(s.Root, mount, "user.slice", fmt.Sprintf("user-%d.slice", s.UID), s.manager())
}

// lookHere foretells it where no scope is asked for. This process itself is one of the
// others then.
func (s System) lookHere() Outlook {
	child := s
	child.PID = 0
	b, err := child.Find()
	if err == nil && !entersGroups() {
		err = errKernel()
	}
	if err != nil {
		return Outlook{Why: err}
	}
	return Outlook{Controllers: b.Controllers}
}

// errKernel says what the kernel lacks.
func errKernel() error {
	return fault.New(fault.Host, "", "this kernel starts no program in a control group (Linux 5.7 does), or a filter of system calls forbids clone3")
}
