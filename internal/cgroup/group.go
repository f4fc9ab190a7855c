package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// prefix begins the names of all groups that are made here.
const prefix = "smolvm-"

// leaf is the group that this process moves to when it has to leave the base.
const leaf = prefix + "supervisor"

// period is that of processor time in microseconds, the kernel's own default.
const period = 100_000

// Limits are those of one group; 0 leaves one open.
type Limits struct {
	Memory    uint64 // bytes, what the kernel keeps for the group and its caches included
	Processes uint64 // and threads
	CPUs      int    // processors' worth of time
}

// Group is a group with limits. It is this process's until Remove.
type Group struct {
	dir    string
	folder *os.File // open and locked
}

// Open makes the base ready for groups: it removes what crashed processes left, moves
// this one out of the base, which may hold none itself, and enables the controllers.
// Controllers are afterwards those that the kernel enabled.
func (b *Base) Open() error {
	if !entersGroups() {
		return errKernel()
	}
	b.sweep()
	if b.inside {
		if err := b.leave(); err != nil {
			return err
		}
	}
	var refused error
	b.Controllers = slices.DeleteFunc(b.Controllers, func(name string) bool {
		err := write(b.dir, enabled, "+"+name)
		refused = errors.Join(refused, err)
		return err != nil
	})
	if len(b.Controllers) == 0 {
		return errors.Join(fmt.Errorf("enable controllers of a control group: %w", refused), b.Close())
	}
	return nil
}

// leave moves this process to a group below.
func (b *Base) leave() error {
	dir := filepath.Join(b.dir, leaf)
	err := os.Mkdir(dir, 0o755)
	if err == nil || errors.Is(err, os.ErrExist) {
		err = write(dir, processes, "0")
	}
	if err != nil {
		return fmt.Errorf("move this process within its control group: %w", err)
	}
	return nil
}

// Close undoes Open, once all groups were removed. Where other processes of ours use
// the base too, it stays as it is.
func (b *Base) Close() error {
	if !b.inside {
		return nil
	}
	var errs error
	for _, name := range b.Controllers {
		errs = errors.Join(errs, write(b.dir, enabled, "-"+name))
	}
	if err := write(b.dir, processes, "0"); err != nil {
		return errors.Join(errs, err)
	}
	return errors.Join(errs, os.Remove(filepath.Join(b.dir, leaf)))
}

// sweep removes the groups that crashed processes left. One with a process in it, or
// whose maker lives, stays.
func (b *Base) sweep() {
	left, _ := filepath.Glob(filepath.Join(b.dir, prefix+"*"))
	for _, dir := range left {
		if g, err := claim(dir, unix.LOCK_NB); err == nil {
			_ = os.Remove(dir)
			_ = g.folder.Close()
		}
	}
}

// Within are the limits that there are controllers for; the others are open.
func (b *Base) Within(l Limits) Limits {
	for _, missing := range Missing(b.Controllers) {
		switch missing {
		case memory:
			l.Memory = 0
		case pids:
			l.Processes = 0
		case cpu:
			l.CPUs = 0
		}
	}
	return l
}

// Make makes a group with limits, as far as there are controllers for them. Its name is
// the caller's alone.
func (b *Base) Make(name string, l Limits) (*Group, error) {
	dir := filepath.Join(b.dir, prefix+name)
	g, err := create(dir)
	if err != nil {
		return nil, fmt.Errorf("make control group %s: %w", dir, err)
	}
	for _, s := range b.Within(l).settings() {
		if err := write(dir, s.file, s.value); err != nil {
			return nil, errors.Join(fmt.Errorf("limit control group %s: %w", dir, err), g.Remove())
		}
	}
	return g, nil
}

// setting is one file of a group.
type setting struct{ file, value string }

// settings are the limits as the kernel reads them. Who goes over the memory's goes
// with all of the group: a monitor without some of its threads is none.
func (l Limits) settings() []setting {
	var all []setting
	if l.Memory > 0 {
		all = append(all, setting{"memory.max", strconv.FormatUint(l.Memory, 10)}, setting{"memory.oom.group", "1"})
	}
	if l.Processes > 0 {
		all = append(all, setting{"pids.max", strconv.FormatUint(l.Processes, 10)})
	}
	if l.CPUs > 0 {
		all = append(all, setting{"cpu.max", fmt.Sprintf("%d %d", l.CPUs*period, period)})
	}
	return all
}

// maxTries bounds how often a group is made that somebody's sweep takes away before it
// is locked.
const maxTries = 10

// create makes a folder and locks it. Only a sweep can have it locked, for a moment.
func create(dir string) (g *Group, err error) {
	for range maxTries {
		if err = os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if g, err = claim(dir, 0); !errors.Is(err, os.ErrNotExist) {
			return g, err
		}
	}
	return nil, err
}

// claim locks a group: how says whether to wait for whoever has it.
func claim(dir string, how int) (*Group, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(folder.Fd()), unix.LOCK_EX|how); err == nil {
		err = same(folder, dir)
	}
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	return &Group{dir: dir, folder: folder}, nil
}

// same tells whether an open folder is still the one at a path.
func same(folder *os.File, dir string) error {
	open, err := folder.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !os.SameFile(open, there) {
		return os.ErrNotExist
	}
	return nil
}

// Folder is the group's, open: what a program is started in.
func (g *Group) Folder() *os.File { return g.folder }

// Starved tells whether processes of the group were killed for want of memory, and
// whether by the group's own limit; otherwise by a limit above it, or as this computer
// has no more.
func (g *Group) Starved() (killed, own bool, err error) {
	text, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if errors.Is(err, os.ErrNotExist) { // no controller
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("read the events of a control group: %w", err)
	}
	return count(text, "oom_kill") > 0, count(text, "oom") > 0, nil
}

// count is the number of an event in lines of names and numbers.
func count(text []byte, event string) int {
	for line := range strings.Lines(string(text)) {
		if name, number, found := strings.Cut(strings.TrimSpace(line), " "); found && name == event {
			n, _ := strconv.Atoi(number)
			return n
		}
	}
	return 0
}

// Remove ends what is still in the group and removes it.
func (g *Group) Remove() error {
	defer g.folder.Close()
	err := os.Remove(g.dir)
	if errors.Is(err, unix.EBUSY) {
		_ = write(g.dir, "cgroup.kill", "1") // Linux 5.14; before, what is in it ends by itself
		if err = g.empty(); err == nil {
			err = os.Remove(g.dir)
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a control group: %w", err)
	}
	return nil
}

// write writes one setting of a group. The files are the kernel's: none is made.
func write(dir, name, value string) error {
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}
