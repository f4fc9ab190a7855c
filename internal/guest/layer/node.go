//go:build linux

// Package layer moves file trees in and out of a sandbox's disk: it extracts a
// tar archive, copies a tree, and writes a tree to a blank device as a
// reproducible ext4 file system. Everything about a file is kept: owner, mode,
// times, extended attributes, devices and hard links.
//
// A crash leaves half a tree or half a file system; callers mark what is whole.
package layer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// node is one file to be made.
type node struct {
	path   string // slash-separated, relative, clean
	mode   uint32 // type and permission bits as stat has them
	uid    int
	gid    int
	mtime  time.Time
	rdev   uint64
	target string            // of a symbolic link
	source string            // of a hard link: a path made earlier; then mode and the rest are ignored
	xattrs map[string]string // by full name
}

// tree makes nodes below a directory. Every path is resolved inside it, so a
// symbolic link planted by an earlier node cannot lead outside.
type tree struct {
	root   *os.Root
	dir    *os.File // the directory that held the last node
	at     string   // its path
	later  []node   // directories, whose mode and times are set at the end
	buffer []byte
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	return &tree{root: root, buffer: make([]byte, 256<<10)}, nil
}

// parent returns the open directory that holds the path. Archives come sorted,
// so that most calls find it open.
func (t *tree) parent(name string) (int, error) {
	at := path.Dir(name)
	if t.dir != nil && t.at == at {
		return int(t.dir.Fd()), nil
	}
	t.closeDir()
	dir, err := t.root.Open(at)
	if errors.Is(err, os.ErrNotExist) {
		if err = t.root.MkdirAll(at, 0o755); err == nil {
			dir, err = t.root.Open(at)
		}
	}
	if err != nil {
		return -1, err
	}
	t.dir, t.at = dir, at
	return int(dir.Fd()), nil
}

func (t *tree) closeDir() {
	if t.dir != nil {
		t.dir.Close()
		t.dir = nil
	}
}

// put makes one node; content is read for regular files only.
func (t *tree) put(n node, content io.Reader) (int64, error) {
	size, err := t.make(n, content)
	if err != nil {
		return size, fmt.Errorf("make %s: %w", n.path, err)
	}
	return size, nil
}

func (t *tree) make(n node, content io.Reader) (int64, error) {
	if n.path == "." {
		t.later = append(t.later, n)
		return 0, nil
	}
	dir, err := t.parent(n.path)
	if err != nil {
		return 0, err
	}
	name := path.Base(n.path)
	if n.source != "" {
		return 0, t.link(n.source, dir, name)
	}
	kind := n.mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		t.later = append(t.later, n)
		return 0, makeDir(dir, name)
	}
	if err := clear(dir, name); err != nil {
		return 0, err
	}
	switch kind {
	case unix.S_IFREG:
		return t.file(dir, name, n, content)
	case unix.S_IFLNK:
		err = unix.Symlinkat(n.target, dir, name)
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		err = unix.Mknodat(dir, name, n.mode, int(n.rdev))
	default:
		err = fmt.Errorf("unknown type %o", kind)
	}
	if err != nil {
		return 0, err
	}
	return 0, decorate(dir, name, n)
}

// clear removes what an earlier node left at the name.
func clear(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// makeDir makes a directory that the owner can fill; its own mode comes at the end.
func makeDir(dir int, name string) error {
	err := unix.Mkdirat(dir, name, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil {
		return err
	}
	return unix.Mkdirat(dir, name, 0o700)
}

func (t *tree) link(source string, dir int, name string) error {
	if err := clear(dir, name); err != nil {
		return err
	}
	from, err := t.root.Open(path.Dir(source))
	if err != nil {
		return err
	}
	defer from.Close()
	return unix.Linkat(int(from.Fd()), path.Base(source), dir, name, 0)
}

func (t *tree) file(dir int, name string, n node, content io.Reader) (int64, error) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, err
	}
	file := os.NewFile(uintptr(fd), n.path)
	defer file.Close()
	size, err := t.copy(file, content)
	if err != nil {
		return size, err
	}
	return size, decorate(dir, name, n)
}

// copy lets the kernel copy from file to file and uses the tree's own buffer otherwise.
func (t *tree) copy(to *os.File, from io.Reader) (int64, error) {
	if file, ok := from.(*os.File); ok {
		return to.ReadFrom(file)
	}
	return io.CopyBuffer(struct{ io.Writer }{to}, from, t.buffer)
}

// decorate sets the rest in the order the kernel needs: a change of owner
// clears set-id bits and capabilities, and every change touches the times.
func decorate(dir int, name string, n node) error {
	if err := unix.Fchownat(dir, name, n.uid, n.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", n.uid, n.gid, err)
	}
	link := n.mode&unix.S_IFMT == unix.S_IFLNK
	if !link {
		if err := unix.Fchmodat(dir, name, n.mode&0o7777, 0); err != nil {
			return fmt.Errorf("set mode %o: %w", n.mode&0o7777, err)
		}
	}
	for attr, value := range n.xattrs {
		if err := setXattr(dir, name, attr, value); err != nil {
			return err
		}
	}
	at := unix.NsecToTimespec(n.mtime.UnixNano())
	if err := unix.UtimesNanoAt(dir, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// setXattr goes through the directory's descriptor, there being no setxattrat
// before Linux 6.13.
func setXattr(dir int, name, attr, value string) error {
	file := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	if err := unix.Lsetxattr(file, attr, []byte(value), 0); err != nil {
		return fmt.Errorf("set attribute %s: %w", attr, err)
	}
	return nil
}

// close sets what was put off for the directories, the deepest first, and
// closes the tree.
func (t *tree) close(err error) error {
	defer t.root.Close()
	defer t.closeDir()
	for i := len(t.later) - 1; i >= 0 && err == nil; i-- {
		n := t.later[i]
		err = t.finish(n)
		if err != nil {
			err = fmt.Errorf("finish %s: %w", n.path, err)
		}
	}
	return err
}

func (t *tree) finish(n node) error {
	if n.path == "." {
		dir, err := t.root.Open(".")
		if err != nil {
			return err
		}
		defer dir.Close()
		return decorate(int(dir.Fd()), ".", n)
	}
	dir, err := t.parent(n.path)
	if err != nil {
		return err
	}
	return decorate(dir, path.Base(n.path), n)
}
