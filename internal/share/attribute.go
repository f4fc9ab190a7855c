package share

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// getattr tells a file's attributes, those of an open file when its name is gone.
func (s *Server) getattr(n *node, _ *reader) (*writer, error) {
	st, err := s.statOf(n)
	if err != nil {
		return nil, err
	}
	return s.attributes(st), nil
}

func (s *Server) attributes(st stat) *writer {
	w := newWriter(16 + attrSize)
	w.attrAnswer(fresh, s.seen(st))
	return w
}

func (s *Server) statOf(n *node) (stat, error) {
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, st, err := s.find(n)
	if err == nil {
		p.close()
		return st, nil
	}
	if h := s.table.handleOf(n); h != nil {
		defer h.unuse()
		return statFD(h.fd)
	}
	return stat{}, err
}

// change is what a setattr asks for.
type change struct {
	valid        uint32
	handle, size uint64
	times        []unix.Timespec
	mode         uint32
	uid, gid     uint32
}

func parseChange(in *reader) change {
	c := change{valid: in.uint32()}
	in.uint32()
	c.handle, c.size = in.uint64(), in.uint64()
	in.uint64() // owner of locks, which the guest keeps
	at, mt := in.uint64(), in.uint64()
	in.uint64() // ctime: this computer's
	atNanos, mtNanos := in.uint32(), in.uint32()
	in.uint32()
	c.mode = in.uint32()
	in.uint32()
	c.uid, c.gid = in.uint32(), in.uint32()
	c.times = []unix.Timespec{
		c.time(setAtime, setAtimeNow, at, atNanos), c.time(setMtime, setMtimeNow, mt, mtNanos),
	}
	return c
}

func (c change) time(set, now uint32, seconds uint64, nanos uint32) unix.Timespec {
	switch {
	case c.valid&set == 0:
		return unix.Timespec{Nsec: timeOmit}
	case c.valid&now != 0:
		return unix.Timespec{Nsec: timeNow}
	}
	t, _ := unix.TimeToTimespec(stamp{int64(seconds), min(nanos, 999_999_999)}.time())
	return t
}

// setattr changes attributes: of an open file where the guest has one, which then
// needs no name any more.
func (s *Server) setattr(n *node, in *reader) (*writer, error) {
	c := parseChange(in)
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, st, err := s.find(n)
	defer p.close()
	h := s.writable(n, c)
	if h != nil {
		defer h.unuse()
	}
	if err != nil {
		if h == nil {
			if h = s.table.handleOf(n); h == nil {
				return nil, err
			}
			defer h.unuse()
		}
		if st, err = statFD(h.fd); err != nil {
			return nil, err
		}
		if err := s.changeOpen(h, st, c); err != nil {
			return nil, err
		}
		st, err = statFD(h.fd)
	} else {
		if err := s.changeNamed(n, p, st, c, h); err != nil {
			return nil, err
		}
		st, err = statAt(p.dir, p.name)
	}
	if err != nil {
		return nil, err
	}
	s.table.unchanged(n, st.version())
	return s.attributes(st), nil
}

// isTouch recognizes what the guest's agent does to tell watchers of a change.
func isTouch(in reader) bool {
	c := parseChange(&in)
	return c.valid&(setMode|setUID|setGID|setSize|setAtime|setMtime|setMtimeNow) == setMtime &&
		c.times[1] == unix.Timespec{Sec: wire.TouchSeconds, Nsec: wire.TouchNanos}
}

// writable is the handle that the guest truncates through, in use.
func (s *Server) writable(n *node, c change) *handle {
	if c.valid&setHandle == 0 {
		return nil
	}
	h := s.handle(c.handle)
	if h != nil && h.node != n {
		h.unuse()
		return nil
	}
	return h
}

// allowed refuses other owners than the file has, and set-id files.
func (s *Server) allowed(st stat, c change) error {
	now := s.seen(st)
	if c.valid&setUID != 0 && c.uid != now.uid || c.valid&setGID != 0 && c.gid != now.gid {
		return syscall.EPERM
	}
	forbidden := uint32(setUIDBit | setGIDBit)
	if st.id.kind == typeFolder {
		forbidden = setUIDBit
	}
	if c.valid&setMode != 0 && c.mode&forbidden&^st.attr.mode != 0 {
		return syscall.EPERM
	}
	return nil
}

func (s *Server) changeNamed(n *node, p spot, st stat, c change, h *handle) error {
	if err := s.allowed(st, c); err != nil {
		return err
	}
	is := func(id fileID) bool { return id == st.id }
	if c.valid&setMode != 0 {
		if err := chmodAt(p, is, c.mode&modeBits); err != nil {
			return err
		}
	}
	if c.valid&setSize != 0 {
		if err := truncate(p, is, int64(c.size), h); err != nil {
			return err
		}
	}
	if c.valid&(setAtime|setMtime) != 0 {
		return utimesAt(p, c.times)
	}
	return nil
}

func truncate(p spot, is func(fileID) bool, size int64, h *handle) error {
	if h != nil && h.writes {
		return unix.Ftruncate(h.fd, size)
	}
	fd, err := openAt(p, is, unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Ftruncate(fd, size)
}

// changeOpen changes a file that has no name any more.
func (s *Server) changeOpen(h *handle, st stat, c change) error {
	if err := s.allowed(st, c); err != nil {
		return err
	}
	if c.valid&setMode != 0 {
		if err := unix.Fchmod(h.fd, c.mode&modeBits); err != nil {
			return err
		}
	}
	if c.valid&setSize != 0 {
		if err := unix.Ftruncate(h.fd, int64(c.size)); err != nil {
			return err
		}
	}
	if c.valid&(setAtime|setMtime) != 0 {
		return utimesFD(h.fd, c.times)
	}
	return nil
}

func (s *Server) statfs(n *node) (*writer, error) {
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	f, err := spaceOf(int(n.tree.top.Fd()))
	if err != nil {
		return nil, err
	}
	return f.write(), nil
}

func (f space) write() *writer {
	w := newWriter(80)
	for _, v := range []uint64{f.blocks, f.free, f.available, f.files, f.filesFree} {
		w.uint64(v)
	}
	for _, v := range []uint32{f.blockSize, f.nameLength, f.fragment} {
		w.uint32(v)
	}
	w.zeros(28)
	return w
}

// attribute handles extended attributes: only those of the user, which mean
// nothing to this computer.
func (s *Server) attribute(n *node, opcode uint32, in *reader) (*writer, error) {
	var size, flags uint32
	switch opcode {
	case opSetxattr:
		size, flags = in.uint32(), in.uint32()
	case opGetxattr, opListxattr:
		size = in.uint32()
		in.uint32()
	}
	name := ""
	if opcode != opListxattr {
		name = in.text()
		if !strings.HasPrefix(name, userAttributes) {
			return nil, syscall.EOPNOTSUPP
		}
	}
	s.table.moving.RLock()
	defer s.table.moving.RUnlock()
	p, _, err := s.find(n)
	if err != nil {
		return nil, err
	}
	defer p.close()
	switch opcode {
	case opSetxattr:
		if int(size) > len(in.rest) {
			return nil, syscall.EINVAL
		}
		return nil, setAttribute(p, name, in.rest[:size], int(flags))
	case opRemovexattr:
		return nil, removeAttribute(p, name)
	case opListxattr:
		list, err := listAttributes(p)
		return sized([]byte(list), size, err)
	case opGetxattr:
		value := make([]byte, 64<<10)
		k, err := getAttribute(p, name, value)
		return sized(value[:max(k, 0)], size, err)
	}
	return nil, syscall.ENOSYS
}

// sized answers with a value, or with its size where that was asked for.
func sized(value []byte, size uint32, err error) (*writer, error) {
	switch {
	case err != nil:
		return nil, err
	case size == 0:
		w := newWriter(8)
		w.uint32(uint32(len(value)))
		w.uint32(0)
		return w, nil
	case len(value) > int(size):
		return nil, syscall.ERANGE
	}
	w := newWriter(len(value))
	w.bytes(value)
	return w, nil
}
