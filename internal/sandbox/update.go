package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fsimg/ext4"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// Update gives a sandbox that does not run another image, whose files are in the
// store. From its next start on the system is the image's own; what lives on the
// scratch beside it (home, workspace, containers) stays. The record is replaced
// once: a crash leaves the old image with all changes, or the new one.
func (m *Manager) Update(name string, image record.Image, agent record.Agent) (record.Record, error) {
	return m.change(name, "update", func(r *record.Record) error {
		r.Image, r.Agent = image, agent
		r.Generation++
		return nil
	})
}

// Change is what was changed in the system of a sandbox below one path.
type Change struct {
	Path    string // absolute: a file, or a folder with Files changed files below it
	Files   int
	Removed bool // a file that the image has and the sandbox has not
}

// Changes are what was changed in the system of a sandbox.
type Changes struct {
	Packages []string // installed or upgraded by dpkg, without architectures
	Paths    []Change // dpkg's own files left out
	More     bool     // there are more than can be told apart
}

// maxChanges bounds how many paths Changes tells apart.
const maxChanges = 1000

// made are the files that the guest agent writes at every boot, and what no one
// misses: caches, logs, locks. They are no changes of the user's.
var made = []string{
	"etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf", "etc/passwd-", "etc/group-", "etc/shadow-",
	"etc/profile.d/smolvm.sh", "etc/ld.so.cache", "etc/ssl/certs", "usr/sbin/poweroff", "usr/sbin/reboot",
	"usr/sbin/halt", "usr/sbin/shutdown", "var/cache", "var/log", "var/tmp", "var/lib/apt/lists", "tmp", "run", "root/.cache",
}

// madeNames begin the names of further ones.
var madeNames = []string{"usr/local/share/ca-certificates/smolvm", "etc/sudoers.d/90-smolvm"}

// madeAtBoot tells whether a file of the system is the agent's, not the user's.
func madeAtBoot(name string) bool {
	return slices.Contains(made, name) ||
		slices.ContainsFunc(madeNames, func(begin string) bool { return strings.HasPrefix(name, begin) })
}

// Changes reads, without mounting it, what a sandbox that does not run has changed
// in its system: what an update drops. Folders in which much was changed stand for
// what is below them.
func (m *Manager) Changes(name string) (all Changes, err error) {
	r, err := m.Book.Read(name)
	if err != nil {
		return all, err
	}
	file, err := os.Open(m.Book.Folder(name).Scratch())
	if err != nil {
		return all, fault.New(fault.Storage, "", "look at the disk of sandbox %q: %w", name, err)
	}
	defer file.Close()
	disk, err := ext4.Open(file)
	if err != nil {
		return all, fault.New(fault.Conflict, fmt.Sprintf("Start it and stop it in order: smolvm start %s --no-attach, smolvm stop %s.", name, name),
			"the disk of sandbox %q was not made clean when it stopped: %w", name, err)
	}
	upper := wire.Generation(wire.ScratchUpper, r.Generation)
	err = disk.Walk(func(e ext4.Entry) error { return all.visit(upper, e) })
	if all.More = errors.Is(err, errMany); err != nil && !all.More {
		return all, fault.New(fault.Storage, "", "look at the disk of sandbox %q: %w", name, err)
	}
	return all, nil
}

// errMany ends a walk that has found more than anybody reads.
var errMany = errors.New("more changes than can be told apart")

// dpkgInfo is where dpkg keeps a list of files for each package.
const dpkgInfo = "var/lib/dpkg/info/"

// visit takes one name on the scratch.
func (c *Changes) visit(upper string, e ext4.Entry) error {
	name, below := strings.CutPrefix(e.Name, upper+"/")
	outside := !below && e.Name != upper
	switch {
	case e.Mode.IsDir() && (outside || madeAtBoot(name)):
		return fs.SkipDir
	case !below || madeAtBoot(name) || e.Mode.IsDir():
		return nil
	case strings.HasPrefix(name, "var/lib/dpkg/"):
		c.addPackage(name)
		return nil
	}
	return c.add("/"+name, e.Whiteout)
}

func (c *Changes) addPackage(name string) {
	file, ok := strings.CutPrefix(name, dpkgInfo)
	if stem, list := strings.CutSuffix(file, ".list"); ok && list && len(c.Packages) < maxChanges {
		stem, _, _ = strings.Cut(stem, ":")
		c.Packages = append(c.Packages, stem)
	}
}

// depth is how many parts of a path are told apart where several files changed.
const depth = 3

// add counts a file with those in the same folder, if there are any.
func (c *Changes) add(name string, removed bool) error {
	group := name
	if parts := strings.SplitN(name, "/", depth+2); len(parts) > depth+1 {
		group = strings.Join(parts[:depth+1], "/")
	}
	if last := len(c.Paths) - 1; last >= 0 && !removed && c.Paths[last].Path == group {
		c.Paths[last].Files++
		return nil
	}
	if len(c.Paths) == maxChanges {
		return errMany
	}
	c.Paths = append(c.Paths, Change{Path: group, Files: 1, Removed: removed && group == name})
	return nil
}
