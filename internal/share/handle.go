package share

import (
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// handle is a file or folder that the guest has open. Its descriptor is closed
// only when nothing uses it: else a guest that releases a handle twice could read
// whatever this process opens next.
type handle struct {
	number uint64
	node   *node
	tree   *tree // nil for the root that is made up
	fd     int   // -1 for the root
	reads  bool
	writes bool

	using   sync.RWMutex // held for reading by who uses fd
	closed  bool         // under using
	listing sync.Mutex
	entries []listed // of a folder, as it was when it was read from its start
}

// use keeps the descriptor open until unuse; false when it is closed.
func (h *handle) use() bool {
	h.using.RLock()
	if h.closed {
		h.using.RUnlock()
		return false
	}
	return true
}

func (h *handle) unuse() { h.using.RUnlock() }

func (h *handle) close() {
	h.using.Lock()
	defer h.using.Unlock()
	if !h.closed && h.fd >= 0 {
		_ = unix.Close(h.fd)
	}
	h.closed = true
}

// keep gives an open file a number.
func (s *Server) keep(h *handle) error {
	s.mu.Lock()
	if len(s.handles) >= s.most {
		s.mu.Unlock()
		h.close()
		return syscall.ENFILE
	}
	s.next++
	h.number = s.next
	s.handles[h.number] = h
	s.mu.Unlock()
	s.table.opened(h.node, h)
	return nil
}

// handle gives an open file by its number, in use; nil when there is none.
func (s *Server) handle(number uint64) *handle {
	s.mu.Lock()
	h := s.handles[number]
	s.mu.Unlock()
	if h == nil || !h.use() {
		return nil
	}
	return h
}

func (s *Server) release(number uint64) {
	s.mu.Lock()
	h := s.handles[number]
	delete(s.handles, number)
	s.mu.Unlock()
	if h == nil {
		return
	}
	s.table.released(h.node, h)
	h.close()
	h.listing.Lock()
	defer h.listing.Unlock()
	s.account(-len(h.entries))
	h.entries = nil
}

// account counts entries of open listings; false when there are too many.
func (s *Server) account(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.listed+n > maxListed {
		return false
	}
	s.listed = max(0, s.listed+n)
	return true
}

// withHandle does what concerns an open file.
func (s *Server) withHandle(r *request) (*writer, error) {
	in := &r.body
	number := in.uint64()
	if r.opcode == opRelease || r.opcode == opReleasedir {
		s.release(number)
		return nil, nil
	}
	h := s.handle(number)
	if h == nil {
		return nil, syscall.EBADF
	}
	defer h.unuse()
	if h.tree != nil && h.tree.gone.Load() {
		return nil, syscall.ENODEV
	}
	switch r.opcode {
	case opReaddir, opReaddirplus:
		return s.readdir(h, in, r.opcode == opReaddirplus)
	case opFsync, opFsyncdir:
		return nil, h.sync(in)
	case opRead:
		return h.read(in)
	case opWrite:
		return s.write(h, in)
	case opFallocate:
		return nil, h.allocate(in)
	case opLseek:
		return h.seek(in)
	}
	return s.copyRange(h, in)
}

// opened answers with a handle.
func opened(w *writer, h *handle, flags uint32) *writer {
	w.uint64(h.number)
	w.uint32(flags)
	w.uint32(0)
	return w
}

// hostFlags are the flags to open a file with here. Appending is done with each
// write; what the guest's kernel does by itself (direct, sync) is left to it.
func hostFlags(flags uint32) (int, error) {
	switch flags & openAccess {
	case 0:
		return unix.O_RDONLY, nil
	case openWrite:
		return unix.O_WRONLY, nil
	case openRDWR:
		return unix.O_RDWR, nil
	}
	return 0, syscall.EINVAL
}

func newHandle(n *node, fd int, flags uint32) *handle {
	access := flags & openAccess
	return &handle{node: n, tree: n.tree, fd: fd, reads: access != openWrite, writes: access != 0}
}

func (s *Server) open(n *node, in *reader) (*writer, error) {
	flags := in.uint32()
	host, err := hostFlags(flags)
	if err != nil {
		return nil, err
	}
	if n.tree.ReadOnly && (host != unix.O_RDONLY || flags&openTrunc != 0) {
		return nil, syscall.EROFS
	}
	fd, err := s.openNode(n, host)
	if err != nil {
		return nil, err
	}
	if flags&openTrunc != 0 {
		if err := unix.Ftruncate(fd, 0); err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
	}
	return s.answerOpen(n, fd, flags)
}

// answerOpen tells the guest to keep the pages it has of a file that is unchanged.
func (s *Server) answerOpen(n *node, fd int, flags uint32) (*writer, error) {
	st, err := statFD(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	hints := uint32(0)
	if s.table.unchanged(n, st.version()) {
		hints = keepCache
	}
	h := newHandle(n, fd, flags)
	if err := s.keep(h); err != nil {
		return nil, err
	}
	return opened(newWriter(16), h, hints), nil
}

// openNode opens a regular file.
func (s *Server) openNode(n *node, flags int) (int, error) {
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, st, err := s.find(n)
	if err != nil {
		return -1, err
	}
	defer p.close()
	if st.id.kind == typeFolder {
		return -1, syscall.EISDIR
	}
	return openAt(p, func(id fileID) bool { return id == st.id }, flags|unix.O_NONBLOCK)
}

// create makes a file and opens it. One that the host has made in the same
// moment is opened, unless the guest wants to be its maker.
func (s *Server) create(n *node, in *reader) (*writer, error) {
	flags, mode := in.uint32(), in.uint32()
	in.skip(8)
	name := in.text()
	host, err := hostFlags(flags)
	if err != nil {
		return nil, err
	}
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, err := s.within(n, name)
	if err != nil {
		return nil, err
	}
	defer p.close()
	fd, err := makeRegular(p, host, mode)
	if err == unix.EEXIST && flags&openExcl == 0 {
		fd, err = openExisting(p, host, flags)
	}
	if err != nil {
		return nil, err
	}
	return s.created(n, name, fd, flags)
}

func openExisting(p spot, host int, flags uint32) (int, error) {
	fd, err := openAt(p, func(id fileID) bool { return id.kind == typeRegular }, host|unix.O_NONBLOCK)
	if err == nil && flags&openTrunc != 0 {
		if err = unix.Ftruncate(fd, 0); err != nil {
			_ = unix.Close(fd)
		}
	}
	return fd, err
}

// created answers with the new file's entry and handle.
func (s *Server) created(parent *node, name string, fd int, flags uint32) (*writer, error) {
	st, err := statFD(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	n := s.table.remember(parent.tree, st.id, place{parent, name})
	if n == nil {
		_ = unix.Close(fd)
		return nil, syscall.ENOMEM
	}
	h := newHandle(n, fd, flags)
	if err := s.keep(h); err != nil {
		s.table.forget(n.number, 1)
		return nil, err
	}
	s.table.unchanged(n, st.version())
	w := newWriter(entrySize + 16)
	w.entry(n.number, fresh, s.seen(st))
	return opened(w, h, 0), nil
}
