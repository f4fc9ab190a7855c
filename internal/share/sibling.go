package share

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of foretelling a folder's entries to a guest that looks at one after
// another, as version control does.
const (
	scanBegins  = 3       // lookups within scanTime before it looks like a scan
	maxSiblings = 64      // entries told at once
	maxScanned  = 1 << 14 // entries of a folder: a larger one takes too long to read
	scanTime    = time.Second
)

// scan is the last folder that was looked through.
type scan struct {
	mu     sync.Mutex
	folder *node
	seen   int
	last   time.Time // a lookup in it
	read   time.Time // when names were read
	names  []string  // in order
}

// next counts a lookup and gives the names that are likely to follow.
func (c *scan) next(n *node, name string, now time.Time, read func() []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.folder != n || now.Sub(c.last) > scanTime {
		c.folder, c.seen, c.names = n, 0, nil
	}
	c.seen, c.last = c.seen+1, now
	if c.seen <= scanBegins {
		return nil
	}
	if c.names == nil || now.Sub(c.read) > scanTime {
		c.names, c.read = read(), now
	}
	i, there := slices.BinarySearch(c.names, name)
	if there {
		i++
	}
	return c.names[i:min(i+maxSiblings, len(c.names))]
}

// foretellSiblings gives the entries behind the one that was looked up.
func (s *Server) foretellSiblings(r *request, name string) []byte {
	n := s.table.get(r.node)
	if n == nil || n.tree == nil {
		return nil
	}
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	fd := -1
	defer func() {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}()
	names := s.scan.next(n, name, s.now(), func() []string {
		fd = s.openScanned(n)
		return sortedNames(fd)
	})
	if len(names) == 0 {
		return nil
	}
	if fd < 0 {
		fd = s.openScanned(n)
	}
	return s.tellSiblings(r, n, fd, names)
}

// openScanned opens a folder; -1 when that fails. The moving lock is held.
func (s *Server) openScanned(n *node) int {
	p, st, err := s.find(n)
	if err != nil {
		return -1
	}
	defer p.close()
	fd, err := openAt(p, func(id fileID) bool { return id == st.id }, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return -1
	}
	return fd
}

func sortedNames(fd int) []string {
	names := []string{}
	if fd < 0 {
		return names
	}
	list, err := readNames(fd, maxScanned)
	if err != nil || len(list) > maxScanned {
		return names
	}
	for _, e := range list {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return names
}

func (s *Server) tellSiblings(r *request, n *node, fd int, names []string) []byte {
	var told []byte
	for _, name := range names {
		st, err := statAt(fd, name)
		if err != nil {
			continue // the guest has to look itself
		}
		child := s.table.remember(n.tree, st.id, place{n, name})
		if child == nil {
			break
		}
		w := foretold(r, opLookup, r.node, 0, entrySize+len(name))
		w.entry(child.number, fresh, s.seen(st))
		w.bytes([]byte(name))
		told = append(told, w.ahead(r)...)
	}
	return told
}
