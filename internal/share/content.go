package share

import (
	"errors"
	"math"
	"syscall"

	"golang.org/x/sys/unix"
)

// offsetOf refuses what is no place in a file.
func offsetOf(v uint64) (int64, error) {
	if v > math.MaxInt64 {
		return 0, syscall.EINVAL
	}
	return int64(v), nil
}

func (h *handle) read(in *reader) (*writer, error) {
	offset, err := offsetOf(in.uint64())
	size := in.uint32()
	switch {
	case err != nil:
		return nil, err
	case !h.reads || h.entries != nil:
		return nil, syscall.EBADF
	case size > maxData:
		return nil, syscall.EINVAL
	}
	w := newWriter(int(size))
	data := w.b[headerOut : headerOut+int(size)]
	total, err := pread(h.fd, data, offset)
	if err != nil {
		return nil, err
	}
	w.b = w.b[:headerOut+total]
	return w, nil
}

// pread reads as much as there is.
func pread(fd int, data []byte, offset int64) (int, error) {
	total := 0
	for total < len(data) {
		n, err := unix.Pread(fd, data[total:], offset+int64(total))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		total += n
	}
	return total, nil
}

func (s *Server) write(h *handle, in *reader) (*writer, error) {
	offset, err := offsetOf(in.uint64())
	size, how := in.uint32(), in.uint32()
	in.uint64() // owner of locks
	flags := in.uint32()
	in.uint32()
	switch {
	case err != nil:
		return nil, err
	case !h.writes:
		return nil, syscall.EBADF
	case int(size) != len(in.rest):
		return nil, syscall.EINVAL
	}
	// What comes from the guest's cache has its place; only what a program appends
	// goes to the end, which the host may have moved.
	appends := flags&openAppend != 0 && how&writeFromCache == 0
	if err := h.store(in.rest, offset, appends); err != nil {
		return nil, err
	}
	if how&writeKillPriv != 0 {
		h.dropPrivileges(s.host.uid)
	}
	if st, err := statFD(h.fd); err == nil {
		s.table.unchanged(h.node, st.version()) // the guest has these pages
	}
	w := newWriter(8)
	w.uint32(size)
	w.uint32(0)
	return w, nil
}

// store writes all of p.
func (h *handle) store(p []byte, offset int64, appends bool) error {
	for len(p) > 0 {
		var n int
		var err error
		if appends {
			n, err = appendTo(h.fd, p)
		} else {
			n, err = unix.Pwrite(h.fd, p, offset)
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// dropPrivileges clears the set-id bits of a file that was written to. The
// kernel does so by itself, except for root.
func (h *handle) dropPrivileges(uid uint32) {
	if uid != 0 {
		return
	}
	if st, err := statFD(h.fd); err == nil && st.attr.mode&(setUIDBit|setGIDBit) != 0 {
		_ = unix.Fchmod(h.fd, st.attr.mode&modeBits&^(setUIDBit|setGIDBit))
	}
}

func (h *handle) sync(in *reader) error {
	switch {
	case h.fd < 0:
		return nil
	case in.uint32()&fsyncData != 0:
		return dataSync(h.fd)
	}
	return unix.Fsync(h.fd)
}

func (h *handle) allocate(in *reader) error {
	offset, err := offsetOf(in.uint64())
	if err != nil {
		return err
	}
	length, err := offsetOf(in.uint64())
	if err != nil {
		return err
	}
	if !h.writes {
		return syscall.EBADF
	}
	return allocate(h.fd, in.uint32(), offset, length)
}

// Where to seek: data or holes, which only this computer knows.
const (
	seekData = 3
	seekHole = 4
)

func (h *handle) seek(in *reader) (*writer, error) {
	offset, err := offsetOf(in.uint64())
	whence := in.uint32()
	switch {
	case err != nil:
		return nil, err
	case h.fd < 0 || whence != seekData && whence != seekHole:
		return nil, syscall.EINVAL
	}
	at, err := seek(h.fd, offset, int(whence))
	if err != nil {
		return nil, err
	}
	w := newWriter(8)
	w.uint64(uint64(at))
	return w, nil
}

func (s *Server) copyRange(h *handle, in *reader) (*writer, error) {
	from, err := offsetOf(in.uint64())
	if err != nil {
		return nil, err
	}
	in.uint64() // the other file's node
	number := in.uint64()
	to, err := offsetOf(in.uint64())
	if err != nil {
		return nil, err
	}
	length := in.uint64()
	other := s.handle(number)
	if other == nil {
		return nil, syscall.EBADF
	}
	defer other.unuse()
	if !h.reads || !other.writes {
		return nil, syscall.EBADF
	}
	n, err := copyRange(h.fd, from, other.fd, to, int(min(length, 1<<30)))
	if err != nil {
		return nil, err
	}
	w := newWriter(8)
	w.uint32(uint32(n))
	w.uint32(0)
	return w, nil
}
