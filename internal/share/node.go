package share

import (
	"slices"
	"strings"
	"sync"
)

// fileID tells a file of this computer from all others: two names of one file
// are one node.
type fileID struct {
	dev, ino uint64
	born     int64  // when it was made, where that is known: inode numbers are used again
	kind     uint32 // its type, or mountKind
}

// mountKind is the type of a mount's own node, whatever is there at the time: a
// file that an editor replaces stays the same mount.
const mountKind = 0

// place is a name in a folder.
type place struct {
	parent *node
	name   string
}

// node is a file that the guest's kernel knows by number. It is found again by
// one of its places. The root that is made up has no tree.
type node struct {
	number uint64
	id     fileID
	tree   *tree

	// Under the table's lock:
	places  []place // the newest first; never changed in place
	known   uint64  // how many times the guest was told of it
	handles []*handle
	content version // of the file when the guest last was told to keep its pages
	told    bool    // the guest was sent all of this content
}

// version changes when a file's content does.
type version struct {
	size         uint64
	mtime, ctime stamp
}

// Bounds on one node.
const (
	maxPlaces = 16   // names remembered of it
	maxDepth  = 1024 // folders above it: more are a circle
)

// table holds the nodes.
type table struct {
	mu     sync.RWMutex
	last   uint64
	all    map[uint64]*node
	ids    map[treeID]*node
	placed map[place]*node

	// moving is held for reading while a path is found and used, and for writing
	// while a rename changes paths.
	moving sync.RWMutex
}

// treeID is a file of one mount: the same file in two mounts is two nodes, with
// the rights of each.
type treeID struct {
	tree *tree
	id   fileID
}

func newTable() *table {
	t := &table{last: rootNode}
	t.reset()
	return t
}

func (t *table) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = map[uint64]*node{rootNode: {number: rootNode}}
	t.ids, t.placed = map[treeID]*node{}, map[place]*node{}
}

func (t *table) get(number uint64) *node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.all[number]
}

// remember gives the node of a file that the guest is told of at a place. It
// gives nil when the guest knows too many.
func (t *table) remember(tr *tree, id fileID, at place) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := treeID{tr, id}
	n := t.ids[key]
	if n == nil {
		if len(t.all) >= maxNodes {
			return nil
		}
		t.last++
		n = &node{number: t.last, id: id, tree: tr}
		t.all[n.number], t.ids[key] = n, n
	}
	n.known++
	if at.parent != nil {
		t.settle(n, at)
	}
	return n
}

// settle puts a place first; the lock is held.
func (t *table) settle(n *node, at place) {
	if len(n.places) > 0 && n.places[0] == at {
		return
	}
	t.vacate(at)
	places := append([]place{at}, n.places...)
	if len(places) > maxPlaces {
		delete(t.placed, places[maxPlaces])
		places = places[:maxPlaces]
	}
	n.places, t.placed[at] = places, n
}

// vacate forgets who is at a place; the lock is held.
func (t *table) vacate(at place) *node {
	n := t.placed[at]
	if n == nil {
		return nil
	}
	delete(t.placed, at)
	n.places = slices.DeleteFunc(slices.Clone(n.places), func(p place) bool { return p == at })
	return n
}

// leave forgets who is at a place: it was removed.
func (t *table) leave(at place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.vacate(at)
}

// move follows a rename.
func (t *table) move(from, to place, exchange bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	moved, other := t.vacate(from), t.vacate(to)
	if moved != nil {
		t.settle(moved, to)
	}
	if exchange && other != nil {
		t.settle(other, from)
	}
}

// forget takes back what the guest was told. It gives the node when the guest
// knows nothing of it any more.
func (t *table) forget(number, count uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.all[number]
	if n == nil || number == rootNode {
		return nil
	}
	n.known -= min(count, n.known)
	if n.known > 0 {
		return nil
	}
	delete(t.all, number)
	delete(t.ids, treeID{n.tree, n.id})
	for _, at := range n.places {
		delete(t.placed, at)
	}
	return n
}

// known gives who the guest believes to be at a place, and whether a content of
// this size and time is news for it: not if it has made it, or is making it.
func (t *table) known(at place, v version) (n *node, news bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n = t.placed[at]; n == nil {
		return nil, true
	}
	if slices.ContainsFunc(n.handles, func(h *handle) bool { return h.writes }) {
		return n, false
	}
	return n, n.content.size != v.size || n.content.mtime != v.mtime
}

// pathOf is where a folder's entry is below its mount; false when the folder is
// nowhere any more.
func (t *table) pathOf(at place) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	parts := []string{at.name}
	for n := at.parent; n.id.kind != mountKind; n = n.places[0].parent {
		if len(n.places) == 0 || len(parts) > maxDepth {
			return "", false
		}
		parts = append(parts, n.places[0].name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/"), true
}

// placesOf are the places of a node, the likeliest first.
func (t *table) placesOf(n *node) []place {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.places
}

// handleOf gives an open handle of a node, in use, nil when there is none.
func (t *table) handleOf(n *node) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, h := range n.handles {
		if h.use() {
			return h
		}
	}
	return nil
}

// opened and released keep a node's open handles.
func (t *table) opened(n *node, h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.handles = append(n.handles, h)
}

func (t *table) released(n *node, h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.handles = slices.DeleteFunc(n.handles, func(other *handle) bool { return other == h })
}

// unchanged says whether a file's content is what it was when this was last
// asked, and remembers what it is now.
func (t *table) unchanged(n *node, v version) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	same := n.content == v
	n.content, n.told = v, n.told && same
	return same
}

// fetched says whether the guest was sent all of a file's content, and remembers
// that it is now.
func (t *table) fetched(n *node, now bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := n.told
	n.told = n.told || now
	return before
}
