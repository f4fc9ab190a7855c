//go:build linux

package faultdisk

import (
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"syscall"
	"time"
)

const folderMode = syscall.S_IFDIR

// attributes are what stat tells, besides size and blocks.
type attributes struct {
	mode, owner, group, device uint32
	target                     string // of a symbolic link
	changed, modified          time.Time
}

// inode is a file, folder, link or other node: as programs see it, and what a
// power cut leaves of it.
type inode struct {
	number uint64
	attributes
	data    content
	entries map[string]*inode // of a folder
	links   uint32
	open    int

	parent *inode // with name: one of the places it is at, for the log
	name   string

	saved struct {
		attributes
		data content
	}
	stable map[string]stableEntry // of a folder
}

// stableEntry is a durable name: of a file, or of none (inode is nil).
type stableEntry struct {
	inode  *inode
	serial int // of the change that made it
}

// change is one step that changes names, in one folder or two.
type change struct {
	serial int
	names  []naming
	done   bool
}

// naming says that a name of a folder means a file from now on, or nothing (nil).
type naming struct {
	folder *inode
	name   string
	inode  *inode
}

func (d *Disk) newInode(mode, owner, group uint32) *inode {
	now := d.now()
	f := &inode{number: d.next, attributes: attributes{mode: mode, owner: owner, group: group, changed: now, modified: now}}
	d.next++
	f.saved.attributes = f.attributes // a file that was never synced is empty after a cut
	if f.folder() {
		f.entries, f.stable = map[string]*inode{}, map[string]stableEntry{}
	}
	return f
}

func (f *inode) folder() bool { return f.mode&syscall.S_IFMT == folderMode }

// path is for messages; with hard links it is one of several.
func (f *inode) path() string {
	if f.parent == nil {
		return "."
	}
	return path.Join(f.parent.path(), f.name)
}

// apply carries out a change for programs to see; it is durable later.
func (d *Disk) apply(names ...naming) {
	d.serial++
	d.undone = append(d.undone, &change{serial: d.serial, names: names})
	now := d.now()
	for _, n := range names {
		n.folder.changed, n.folder.modified = now, now
		if n.inode == nil {
			delete(n.folder.entries, n.name)
			continue
		}
		n.folder.entries[n.name] = n.inode
		n.inode.parent, n.inode.name, n.inode.changed = n.folder, n.name, now
	}
}

// syncFolder makes the names of a folder durable, and what else the same steps did.
func (d *Disk) syncFolder(f *inode) {
	f.saved.attributes = f.attributes
	for _, c := range d.undone {
		if slices.ContainsFunc(c.names, func(n naming) bool { return n.folder == f }) {
			d.commit(c)
		}
	}
	d.undone = slices.DeleteFunc(d.undone, func(c *change) bool { return c.done })
}

// commit makes a change durable. A file is moved in order: no disk forgets the
// first move and knows the second.
func (d *Disk) commit(c *change) {
	if c.done {
		return
	}
	c.done = true
	if c.moves() {
		for _, earlier := range d.undone {
			if earlier.serial < c.serial && earlier.about(c) {
				d.commit(earlier)
			}
		}
	}
	for _, n := range c.names {
		if n.folder.stable[n.name].serial < c.serial {
			n.folder.stable[n.name] = stableEntry{n.inode, c.serial}
		}
	}
}

func (c *change) moves() bool { return len(c.names) > 1 }

// about tells whether two changes name the same file.
func (c *change) about(other *change) bool {
	return slices.ContainsFunc(c.names, func(a naming) bool {
		return a.inode != nil && slices.ContainsFunc(other.names, func(b naming) bool { return a.inode == b.inode })
	})
}

// sync makes a file's bytes and attributes durable, not its names.
func (f *inode) sync() {
	f.saved.attributes, f.saved.data = f.attributes, f.data.clone()
}

// remains is what a power cut leaves of a file.
func (f *inode) remains(dice *rand.Rand, chance float64) (attributes, content) {
	if dice == nil {
		return f.saved.attributes, f.saved.data.clone()
	}
	attr := f.saved.attributes
	if dice.Float64() < chance {
		attr = f.attributes
	}
	return attr, mixed(f.saved.data, f.data, dice, chance)
}

// everything remains when a disk is cloned.
func everything(f *inode) (attributes, content) { return f.attributes, f.data.clone() }

// names of a folder, sorted: those that programs see, or those that are durable.
func (f *inode) names(durable bool) []string {
	if !durable {
		return slices.Sorted(maps.Keys(f.entries))
	}
	var names []string
	for name, entry := range f.stable {
		if entry.inode != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (f *inode) child(name string, durable bool) *inode {
	if durable {
		return f.stable[name].inode
	}
	return f.entries[name]
}

// copier copies a tree; a file with several names stays one file.
type copier struct {
	remains func(*inode) (attributes, content)
	durable bool // only the durable names
	seen    map[*inode]*inode
	all     []*inode
}

// copyTree gives the copy's root and all its files, everything durable.
func copyTree(root *inode, durable bool, remains func(*inode) (attributes, content)) (*inode, []*inode) {
	c := &copier{remains: remains, durable: durable, seen: map[*inode]*inode{}}
	fresh := c.copy(root)
	fresh.links++ // its own ..
	return fresh, c.all
}

func (c *copier) copy(f *inode) *inode {
	if known := c.seen[f]; known != nil {
		return known
	}
	fresh := &inode{number: f.number}
	c.seen[f] = fresh
	c.all = append(c.all, fresh)
	fresh.attributes, fresh.data = c.remains(f)
	fresh.sync()
	if f.folder() {
		c.copyEntries(f, fresh)
	}
	return fresh
}

func (c *copier) copyEntries(f, fresh *inode) {
	fresh.entries, fresh.stable, fresh.links = map[string]*inode{}, map[string]stableEntry{}, 1
	for _, name := range f.names(c.durable) {
		child := c.copy(f.child(name, c.durable))
		child.parent, child.name = fresh, name
		child.links++
		if child.folder() {
			fresh.links++
		}
		fresh.entries[name], fresh.stable[name] = child, stableEntry{inode: child}
	}
}
