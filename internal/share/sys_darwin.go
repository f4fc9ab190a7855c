package share

import (
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// macOS can neither confine a path nor open a file without opening it for
// something: folders are walked one name at a time without following links, and
// files are named in their open folder.

// noFollowAny is O_NOFOLLOW_ANY: no part of the path may be a link.
const noFollowAny = 0x20000000

func openTop(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|noFollowAny|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openFolder(top int, below string) (int, error) { return walk(top, below, stepInto) }

func stepInto(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func statAt(dir int, name string) (stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return stat{}, err
	}
	return statOf(st), nil
}

func statFD(fd int) (stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return stat{}, err
	}
	return statOf(st), nil
}

func statOf(st unix.Stat_t) stat {
	time := func(t unix.Timespec) stamp { return stamp{t.Sec, uint32(t.Nsec)} }
	s := stat{dev: uint64(uint32(st.Dev))}
	s.id = fileID{dev: s.dev, ino: st.Ino, kind: uint32(st.Mode) & typeMask, born: st.Btim.Sec*1e9 + st.Btim.Nsec}
	s.attr = attr{
		ino: st.Ino, size: uint64(st.Size), blocks: uint64(st.Blocks), atime: time(st.Atim), mtime: time(st.Mtim),
		ctime: time(st.Ctim), mode: uint32(st.Mode), nlink: uint32(st.Nlink), uid: st.Uid, gid: st.Gid,
		blockSize: uint32(st.Blksize),
	}
	return s
}

// openAt opens a file or folder that was seen to be there, if it still is.
func openAt(p spot, want func(fileID) bool, flags int) (int, error) {
	seen, err := statAt(p.dir, p.name)
	if err != nil {
		return -1, err
	}
	if seen.id.kind != typeRegular && seen.id.kind != typeFolder {
		return -1, unix.EPERM
	}
	fd, err := unix.Openat(p.dir, p.name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, err
	}
	if st, err := statFD(fd); err != nil || !want(st.id) {
		_ = unix.Close(fd)
		return -1, unix.ESTALE
	}
	return fd, nil
}

// createAt makes a file that is not there.
func createAt(p spot, flags int, mode uint32) (int, error) {
	return unix.Openat(p.dir, p.name, flags|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
}

// chmodAt changes the mode of a file, not that of one a link leads to.
func chmodAt(p spot, _ func(fileID) bool, mode uint32) error {
	return unix.Fchmodat(p.dir, p.name, mode, unix.AT_SYMLINK_NOFOLLOW)
}

func utimesAt(p spot, times []unix.Timespec) error {
	return unix.UtimesNanoAt(p.dir, p.name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func utimesFD(int, []unix.Timespec) error { return unix.ENOTSUP }

const (
	timeNow  = -1
	timeOmit = -2
)

// makeSpecial has no way to make a pipe or socket in an open folder.
func makeSpecial(spot, uint32) error { return unix.EPERM }

func renameAt(from, to spot, flags uint32) error {
	if flags != 0 {
		return unix.EINVAL
	}
	return unix.Renameat(from.dir, from.name, to.dir, to.name)
}

func appendTo(fd int, p []byte) (int, error) {
	st, err := statFD(fd)
	if err != nil {
		return 0, err
	}
	return unix.Pwrite(fd, p, int64(st.attr.size))
}

func dataSync(fd int) error { return unix.Fsync(fd) }

func allocate(int, uint32, int64, int64) error { return unix.ENOTSUP }

func copyRange(int, int64, int, int64, int) (int, error) { return 0, unix.ENOSYS }

func seek(int, int64, int) (int64, error) { return 0, unix.ENOSYS }

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
	return space{f.Blocks, f.Bfree, f.Bavail, f.Files, f.Ffree, f.Bsize, maxName, f.Bsize}, nil
}

// userAttributes is the one kind of extended attributes that are passed on.
const userAttributes = "user."

func getAttribute(spot, string, []byte) (int, error) { return 0, unix.ENOTSUP }
func setAttribute(spot, string, []byte, int) error   { return unix.ENOTSUP }
func removeAttribute(spot, string) error             { return unix.ENOTSUP }
func listAttributes(spot) (string, error)            { return "", nil }

// lowest is the last number that both systems give the same error.
const lowest = 34

// numbers are Linux's for errors that macOS numbers otherwise.
func numbers() map[syscall.Errno]uint32 {
	return map[syscall.Errno]uint32{
		unix.EDEADLK: 35, unix.ENAMETOOLONG: 36, unix.ENOSYS: 38, unix.ENOTEMPTY: 39, unix.ELOOP: 40, unix.ENODATA: 61,
		unix.ENOATTR: 61, unix.EOVERFLOW: 75, unix.ENOTSUP: 95, unix.EOPNOTSUPP: 95, unix.ESTALE: 116, unix.EDQUOT: 122,
		unix.EAGAIN: 11, unix.ETIMEDOUT: 110, unix.EPROTO: 71,
	}
}

// errnoOf is the number that the guest's kernel knows an error by.
func errnoOf(err error) uint32 {
	var errno syscall.Errno
	if err == nil {
		return 0
	}
	if errors.As(err, &errno) {
		if n, ok := numbers()[errno]; ok {
			return n
		}
		if errno <= lowest {
			return uint32(errno)
		}
	}
	return 5 // EIO
}

// readNames reads an open folder from its start.
func readNames(fd, most int) ([]listed, error) {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(copied), "")
	defer dir.Close()
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	all := []listed{{".", typeFolder, unknown}, {"..", typeFolder, unknown}}
	for {
		part, err := dir.ReadDir(4096)
		for _, e := range part {
			all = append(all, listed{e.Name(), kindOf(e.Type()), unknown})
		}
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		case len(all) > most:
			return nil, syscall.ENOMEM
		}
	}
}

func kindOf(m os.FileMode) uint32 {
	switch {
	case m.IsRegular():
		return typeRegular
	case m.IsDir():
		return typeFolder
	case m&os.ModeSymlink != 0:
		return typeLink
	case m&os.ModeNamedPipe != 0:
		return typeFIFO
	case m&os.ModeSocket != 0:
		return typeSocket
	}
	return 0
}

// peek reads the start of a file.
func peek(fd int, data []byte) (int, error) { return pread(fd, data, 0) }
