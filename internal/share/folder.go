package share

import (
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listed is an entry of a listing.
type listed struct {
	name string
	kind uint32
	ino  uint64 // unknown where the system does not tell
}

// unknown is the number in a listing that does not know it.
const unknown = 1<<64 - 1

func (s *Server) opendir(n *node) (*writer, error) {
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, st, err := s.find(n)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if st.id.kind != typeFolder {
		return nil, syscall.ENOTDIR
	}
	fd, err := openAt(p, func(id fileID) bool { return id == st.id }, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	h := &handle{node: n, tree: n.tree, fd: fd}
	if err := s.keep(h); err != nil {
		return nil, err
	}
	s.watch.add(n, fd)
	return opened(newWriter(16), h, 0), nil
}

// readdir tells a part of a folder's entries. They are read anew when the guest
// begins at the start, so that offsets mean the same until it does so again.
func (s *Server) readdir(h *handle, in *reader, plus bool) (*writer, error) {
	offset, size := in.uint64(), in.uint32()
	if size > maxData {
		return nil, syscall.EINVAL
	}
	h.listing.Lock()
	defer h.listing.Unlock()
	if offset == 0 || h.entries == nil {
		if err := s.list(h); err != nil {
			return nil, err
		}
	}
	w := newWriter(int(size))
	for i := offset; i < uint64(len(h.entries)); i++ {
		if !s.tell(w, int(size), h, h.entries[i], i+1, plus) {
			break
		}
	}
	return w, nil
}

// list reads all entries of a folder.
func (s *Server) list(h *handle) error {
	entries := []listed{{".", typeFolder, unknown}, {"..", typeFolder, unknown}}
	if h.fd < 0 {
		for id, t := range s.mounted() {
			entries = append(entries, listed{id, t.kind(), unknown})
		}
		slices.SortFunc(entries[2:], func(a, b listed) int { return compare(a.name, b.name) })
	} else {
		st, err := statFD(h.fd)
		if err != nil {
			return err
		}
		if entries, err = readNames(h.fd, maxListed); err != nil {
			return err
		}
		for i := range entries {
			entries[i].ino = s.number(st.dev, entries[i].ino)
		}
	}
	if !s.account(len(entries) - len(h.entries)) {
		return syscall.ENOMEM
	}
	h.entries = entries
	return nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Sizes of an entry in a listing, which is padded to 8 bytes.
const direntSize = 24

func padded(n int) int { return (n + 7) &^ 7 }

// tell appends an entry; false when it does not fit any more.
func (s *Server) tell(w *writer, size int, h *handle, e listed, next uint64, plus bool) bool {
	need := padded(direntSize + len(e.name))
	if plus {
		need += entrySize
	}
	if len(w.b)-headerOut+need > size {
		return false
	}
	ino := e.ino
	if plus {
		ino = s.tellEntry(w, h, e, ino)
	}
	w.uint64(ino)
	w.uint64(next)
	w.uint32(uint32(len(e.name)))
	w.uint32(e.kind >> 12)
	w.bytes([]byte(e.name))
	w.zeros(padded(len(e.name)) - len(e.name))
	return true
}

// tellEntry appends what a lookup of the entry would give, or that the guest has
// to look itself.
func (s *Server) tellEntry(w *writer, h *handle, e listed, ino uint64) uint64 {
	if e.name != "." && e.name != ".." && h.fd >= 0 {
		if st, err := statAt(h.fd, e.name); err == nil {
			if n := s.table.remember(h.tree, st.id, place{h.node, e.name}); n != nil {
				a := s.seen(st)
				w.entry(n.number, fresh, a)
				return a.ino
			}
		}
	}
	w.entry(0, 0, attr{})
	return ino
}

// The root that is made up.

// kind of a mount's own node.
func (t *tree) kind() uint32 {
	if t.file != "" {
		return typeRegular
	}
	return typeFolder
}

func (s *Server) mounted() map[string]*tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*tree, len(s.trees))
	for id, t := range s.trees {
		all[id] = t
	}
	return all
}

// rootOperation serves the root: a folder with an entry for each mount.
func (s *Server) rootOperation(n *node, r *request) (*writer, error) {
	switch r.opcode {
	case opGetattr:
		w := newWriter(16 + attrSize)
		w.attrAnswer(fresh, attr{ino: rootNode, mode: typeFolder | 0o755, nlink: 2, blockSize: 4096})
		return w, nil
	case opLookup:
		return s.lookupMount(r.body.text())
	case opOpendir:
		h := &handle{node: n, fd: -1}
		if err := s.keep(h); err != nil {
			return nil, err
		}
		return opened(newWriter(16), h, 0), nil
	case opStatfs:
		return space{blockSize: 4096, nameLength: maxName, fragment: 4096}.write(), nil
	}
	return nil, syscall.EPERM
}

// lookupMount finds a mount. That there is none is not to be remembered: it may
// be added at any time.
func (s *Server) lookupMount(name string) (*writer, error) {
	t := s.tree(name)
	if t == nil {
		return nil, syscall.ENOENT
	}
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p := t.self()
	st, err := statAt(p.dir, p.name)
	if err != nil {
		return nil, err
	}
	n := s.table.remember(t, fileID{kind: mountKind}, place{})
	if n == nil {
		return nil, syscall.ENOMEM
	}
	w := newWriter(entrySize)
	w.entry(n.number, fresh, s.seen(st))
	return w, nil
}

// time is a stamp as Go has it.
func (t stamp) time() time.Time { return time.Unix(t.seconds, int64(t.nanos)) }
