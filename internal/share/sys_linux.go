package share

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// confined resolves a path below a descriptor only, through no link at all.
const confined = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// attempts bounds the repetitions of an openat2 that a rename disturbed.
const attempts = 16

func openTop(path string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err := unix.Faccessat(fd, ".", unix.R_OK|unix.X_OK, 0); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openFolder opens a folder below another, not for reading.
func openFolder(top int, below string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: confined}
	for range attempts {
		fd, err := unix.Openat2(top, below, &how)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // before Linux 5.6, or forbidden by a container
			return walk(top, below, stepInto)
		}
		return fd, err
	}
	return -1, unix.ESTALE
}

func stepInto(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

const statMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func statAt(dir int, name string) (stat, error) {
	return statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
}

func statFD(fd int) (stat, error) { return statx(fd, "", unix.AT_EMPTY_PATH) }

func statx(dir int, name string, flags int) (stat, error) {
	var x unix.Statx_t
	if err := unix.Statx(dir, name, flags, statMask, &x); err != nil {
		return stat{}, err
	}
	time := func(t unix.StatxTimestamp) stamp { return stamp{t.Sec, t.Nsec} }
	s := stat{dev: uint64(x.Dev_major)<<32 | uint64(x.Dev_minor)}
	s.id = fileID{dev: s.dev, ino: x.Ino, kind: uint32(x.Mode) & typeMask}
	if x.Mask&unix.STATX_BTIME != 0 {
		s.id.born = x.Btime.Sec*1e9 + int64(x.Btime.Nsec)
	}
	s.attr = attr{
		ino: x.Ino, size: x.Size, blocks: x.Blocks, atime: time(x.Atime), mtime: time(x.Mtime), ctime: time(x.Ctime),
		mode: uint32(x.Mode), nlink: x.Nlink, uid: x.Uid, gid: x.Gid, blockSize: x.Blksize,
	}
	return s, nil
}

// proc names an open file, so that it can be opened again or changed without
// its path, which may lead elsewhere by now.
func proc(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// pin opens a file without doing anything to it, and says what it is.
func pin(p spot) (int, stat, error) {
	fd, err := unix.Openat(p.dir, p.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, stat{}, err
	}
	st, err := statFD(fd)
	if err != nil {
		_ = unix.Close(fd)
		return -1, stat{}, err
	}
	return fd, st, nil
}

// openAt opens a file or folder that was seen to be there, if it still is.
func openAt(p spot, want func(fileID) bool, flags int) (int, error) {
	fd, st, err := pin(p)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if !want(st.id) {
		return -1, unix.ESTALE
	}
	if st.id.kind != typeRegular && st.id.kind != typeFolder { // opening a pipe or device is an act
		return -1, unix.EPERM
	}
	return ignoringEINTR(func() (int, error) { return unix.Open(proc(fd), flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0) })
}

// createAt makes a file that is not there.
func createAt(p spot, flags int, mode uint32) (int, error) {
	return ignoringEINTR(func() (int, error) {
		return unix.Openat(p.dir, p.name, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	})
}

func ignoringEINTR(open func() (int, error)) (int, error) {
	for {
		fd, err := open()
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// chmodAt changes the mode of a file that was seen to be there.
func chmodAt(p spot, want func(fileID) bool, mode uint32) error {
	fd, st, err := pin(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch {
	case !want(st.id):
		return unix.ESTALE
	case st.id.kind == typeLink:
		return unix.EOPNOTSUPP
	}
	return unix.Chmod(proc(fd), mode)
}

func utimesAt(p spot, times []unix.Timespec) error {
	return unix.UtimesNanoAt(p.dir, p.name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func utimesFD(fd int, times []unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, proc(fd), times, 0)
}

const (
	timeNow  = unix.UTIME_NOW
	timeOmit = unix.UTIME_OMIT
)

// makeSpecial makes a pipe or a socket.
func makeSpecial(p spot, mode uint32) error { return unix.Mknodat(p.dir, p.name, mode, 0) }

func renameAt(from, to spot, flags uint32) error {
	return unix.Renameat2(from.dir, from.name, to.dir, to.name, uint(flags))
}

// appendTo writes to where the file ends now, whoever has changed it.
func appendTo(fd int, p []byte) (int, error) {
	return unix.Pwritev2(fd, [][]byte{p}, 0, unix.RWF_APPEND)
}

func dataSync(fd int) error { return unix.Fdatasync(fd) }

func allocate(fd int, mode uint32, offset, length int64) error {
	return unix.Fallocate(fd, mode, offset, length)
}

func copyRange(from int, fromOffset int64, to int, toOffset int64, n int) (int, error) {
	return unix.CopyFileRange(from, &fromOffset, to, &toOffset, n, 0)
}

func seek(fd int, offset int64, whence int) (int64, error) { return unix.Seek(fd, offset, whence) }

// space of the file system that a folder is on.
type space struct {
	blocks, free, available, files, filesFree uint64
	blockSize, nameLength, fragment           uint32
}

func spaceOf(fd int) (space, error) {
	var f unix.Statfs_t
	if err := unix.Fstatfs(fd, &f); err != nil {
		return space{}, err
	}
	return space{f.Blocks, f.Bfree, f.Bavail, f.Files, f.Ffree, uint32(f.Bsize), uint32(f.Namelen), uint32(f.Frsize)}, nil
}

// userAttributes is the one kind of extended attributes that a user may set and
// that means nothing to this computer.
const userAttributes = "user."

func getAttribute(p spot, name string, buf []byte) (int, error) {
	return onPinned(p, func(path string) (int, error) { return unix.Getxattr(path, name, buf) })
}

func setAttribute(p spot, name string, value []byte, flags int) error {
	_, err := onPinned(p, func(path string) (int, error) { return 0, unix.Setxattr(path, name, value, flags) })
	return err
}

func removeAttribute(p spot, name string) error {
	_, err := onPinned(p, func(path string) (int, error) { return 0, unix.Removexattr(path, name) })
	return err
}

// listAttributes gives the user's attributes, each name ended by NUL.
func listAttributes(p spot) (string, error) {
	var list strings.Builder
	_, err := onPinned(p, func(path string) (int, error) {
		buf := make([]byte, 64<<10)
		n, err := unix.Listxattr(path, buf)
		for name := range strings.SplitSeq(string(buf[:max(n, 0)]), "\x00") {
			if strings.HasPrefix(name, userAttributes) {
				list.WriteString(name + "\x00")
			}
		}
		return n, err
	})
	return list.String(), err
}

func onPinned(p spot, do func(path string) (int, error)) (int, error) {
	fd, st, err := pin(p)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if st.id.kind == typeLink {
		return 0, unix.EOPNOTSUPP
	}
	return do(proc(fd))
}

// errnoOf is the number that the guest's kernel knows an error by.
func errnoOf(err error) uint32 {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return uint32(errno)
	case errors.Is(err, os.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return uint32(unix.ENODEV)
	}
	return uint32(unix.EIO)
}

// Sizes of what the kernel gives of an entry: number, offset, length, type, name.
const (
	rawHeader = 19
	rawBuffer = 256 << 10
)

// readNames reads an open folder from its start.
func readNames(fd, most int) ([]listed, error) {
	if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
		return nil, err
	}
	var all []listed
	for buf := make([]byte, rawBuffer); ; {
		n, err := unix.Getdents(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return all, nil
		case len(all) > most:
			return nil, unix.ENOMEM
		}
		all = appendNames(all, buf[:n])
	}
}

func appendNames(all []listed, raw []byte) []listed {
	for len(raw) >= rawHeader {
		size := int(binary.NativeEndian.Uint16(raw[16:]))
		if size < rawHeader || size > len(raw) {
			break
		}
		name, _, _ := strings.Cut(string(raw[rawHeader:size]), "\x00")
		all = append(all, listed{name, uint32(raw[18]) << 12, binary.NativeEndian.Uint64(raw)})
		raw = raw[size:]
	}
	return all
}

// peek reads the start of a file without leaving a trace in its access time: the
// guest may have opened it for something else. Only a file's owner may do so.
func peek(fd int, data []byte) (int, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return 0, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags|unix.O_NOATIME); err != nil {
		return 0, err
	}
	n, err := pread(fd, data, 0)
	if _, back := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags); back != nil {
		return 0, back
	}
	return n, err
}
