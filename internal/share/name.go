package share

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// told answers with what is at a place now.
func (s *Server) told(t *tree, at place, st stat) (*writer, error) {
	n := s.table.remember(t, st.id, at)
	if n == nil {
		return nil, syscall.ENOMEM
	}
	w := newWriter(entrySize)
	w.entry(n.number, fresh, s.seen(st))
	return w, nil
}

// toldNew answers with what was just made at a spot.
func (s *Server) toldNew(p spot, at place) (*writer, error) {
	st, err := statAt(p.dir, p.name)
	if err != nil {
		return nil, err
	}
	return s.told(at.parent.tree, at, st)
}

func (s *Server) lookup(n *node, in *reader) (*writer, error) {
	name := in.text()
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, err := s.within(n, name)
	if err != nil {
		return nil, err
	}
	defer p.close()
	st, err := statAt(p.dir, p.name)
	if err == unix.ENOENT {
		w := newWriter(entrySize)
		w.entry(0, fresh, attr{}) // there is none, and that may be believed for a while too
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	return s.told(n.tree, place{n, name}, st)
}

// makeEntry makes a link, a folder, a file, a pipe or a socket.
func (s *Server) makeEntry(n *node, opcode uint32, in *reader) (*writer, error) {
	var mode uint32
	switch opcode {
	case opMknod:
		mode = in.uint32()
		in.skip(12)
	case opMkdir:
		mode = in.uint32()
		in.skip(4)
	}
	name, target := in.text(), ""
	if opcode == opSymlink {
		target = in.text()
	}
	if in.short {
		return nil, syscall.EINVAL
	}
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, err := s.within(n, name)
	if err != nil {
		return nil, err
	}
	defer p.close()
	switch opcode {
	case opSymlink:
		err = unix.Symlinkat(target, p.dir, p.name)
	case opMkdir:
		err = makeFolder(p, mode)
	default:
		err = makeFile(p, mode)
	}
	if err != nil {
		return nil, err
	}
	return s.toldNew(p, place{n, name})
}

// makeFolder gives the folder the mode that was asked for, whatever this
// process's umask: the guest has applied its own.
func makeFolder(p spot, mode uint32) error {
	mode &= modeBits &^ setUIDBit
	if err := unix.Mkdirat(p.dir, p.name, mode); err != nil {
		return err
	}
	st, err := statAt(p.dir, p.name)
	if err != nil || st.attr.mode&0o777 == mode&0o777 {
		return err
	}
	return chmodAt(p, func(id fileID) bool { return id == st.id }, mode|st.attr.mode&setGIDBit)
}

// makeFile makes a file, a pipe or a socket, and nothing that stands for a device.
func makeFile(p spot, mode uint32) error {
	switch mode & typeMask {
	case typeRegular, 0:
		fd, err := makeRegular(p, unix.O_WRONLY, mode)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	case typeFIFO, typeSocket:
		return makeSpecial(p, mode&^(setUIDBit|setGIDBit))
	}
	return syscall.EPERM
}

// makeRegular makes a file and opens it.
func makeRegular(p spot, flags int, mode uint32) (int, error) {
	if mode&(setUIDBit|setGIDBit) != 0 {
		return -1, syscall.EPERM
	}
	mode &= modeBits
	fd, err := createAt(p, flags, mode)
	if err != nil {
		return -1, err
	}
	if st, err := statFD(fd); err == nil && st.attr.mode&modeBits != mode {
		_ = unix.Fchmod(fd, mode) // the umask of this process is not the guest's
	}
	return fd, nil
}

func (s *Server) unlink(n *node, opcode uint32, in *reader) (*writer, error) {
	name := in.text()
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, err := s.within(n, name)
	if err != nil {
		return nil, err
	}
	defer p.close()
	flags := 0
	if opcode == opRmdir {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(p.dir, p.name, flags); err != nil {
		return nil, err
	}
	s.table.leave(place{n, name})
	return nil, nil
}

func (s *Server) rename(n *node, opcode uint32, in *reader) (*writer, error) {
	target, flags := s.table.get(in.uint64()), uint32(0)
	if opcode == opRename2 {
		flags = in.uint32()
		in.uint32()
	}
	from, to := in.text(), in.text()
	switch {
	case in.short || flags&^(renameNoReplace|renameExchange) != 0: // a whiteout is a device node
		return nil, syscall.EINVAL
	case target == nil:
		return nil, syscall.ESTALE
	case target.tree != n.tree:
		return nil, syscall.EXDEV
	}
	s.table.moving.Lock()
	defer s.table.moving.Unlock()
	old, err := s.within(n, from)
	if err != nil {
		return nil, err
	}
	defer old.close()
	fresh, err := s.within(target, to)
	if err != nil {
		return nil, err
	}
	defer fresh.close()
	if err := renameAt(old, fresh, flags); err != nil {
		return nil, err
	}
	s.table.move(place{n, from}, place{target, to}, flags&renameExchange != 0)
	return nil, nil
}

// link gives a file a further name. Links are not followed.
func (s *Server) link(n *node, in *reader) (*writer, error) {
	source, name := s.table.get(in.uint64()), in.text()
	switch {
	case source == nil:
		return nil, syscall.ESTALE
	case source.tree != n.tree:
		return nil, syscall.EXDEV
	}
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	old, _, err := s.find(source)
	if err != nil {
		return nil, err
	}
	defer old.close()
	p, err := s.within(n, name)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := unix.Linkat(old.dir, old.name, p.dir, p.name, 0); err != nil {
		return nil, err
	}
	return s.toldNew(p, place{n, name})
}

func (s *Server) readlink(n *node) (*writer, error) {
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, _, err := s.find(n)
	if err != nil {
		return nil, err
	}
	defer p.close()
	buf := make([]byte, 4096)
	k, err := unix.Readlinkat(p.dir, p.name, buf)
	if err != nil {
		return nil, err
	}
	w := newWriter(k)
	w.bytes(buf[:k])
	return w, nil
}
