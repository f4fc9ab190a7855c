//go:build linux

package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CopyTree copies the directory source to dest, which must not exist.
func CopyTree(source, dest string) (err error) {
	if err := os.Mkdir(dest, 0o700); err != nil {
		return fmt.Errorf("copy tree: %w", err)
	}
	t, err := openTree(dest)
	if err != nil {
		return err
	}
	defer func() { err = t.close(err) }()
	seen := map[uint64]string{} // first name of an inode that has several
	return filepath.WalkDir(source, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		return t.copyOne(path, name, seen)
	})
}

func (t *tree) copyOne(path, name string, seen map[uint64]string) error {
	n, st, err := fromFile(path)
	if err != nil {
		return err
	}
	n.path = name
	if st.Nlink > 1 && n.mode&unix.S_IFMT != unix.S_IFDIR {
		n.source = seen[st.Ino]
		seen[st.Ino] = name
	}
	if n.mode&unix.S_IFMT != unix.S_IFREG || n.source != "" {
		_, err = t.put(n, nil)
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = t.put(n, file)
	return err
}

// fromFile describes a file as it is, without following a link.
func fromFile(path string) (node, unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return node{}, st, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := node{
		mode: st.Mode, uid: int(st.Uid), gid: int(st.Gid), rdev: uint64(st.Rdev),
		mtime: time.Unix(st.Mtim.Unix()),
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if n.target, err = os.Readlink(path); err != nil {
			return n, st, err
		}
	}
	n.xattrs, err = readXattrs(path)
	return n, st, err
}

// readXattrs reads all extended attributes of a file; a file system without
// any has none.
func readXattrs(path string) (map[string]string, error) {
	names, err := listXattrs(path)
	if len(names) == 0 || err != nil {
		return nil, err
	}
	attrs := make(map[string]string, len(names))
	for _, name := range names {
		value, err := getXattr(path, name)
		if err != nil {
			return nil, err
		}
		attrs[name] = value
	}
	return attrs, nil
}

func listXattrs(path string) ([]string, error) {
	size, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && size == 0) {
		return nil, nil
	}
	buf := make([]byte, size)
	if err == nil {
		size, err = unix.Llistxattr(path, buf)
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %s: %w", path, err)
	}
	// An overlay counts its own attributes when asked for the size and leaves
	// them out of the list, which may so be empty.
	return strings.FieldsFunc(string(buf[:size]), func(r rune) bool { return r == 0 }), nil
}

func getXattr(path, name string) (string, error) {
	size, err := unix.Lgetxattr(path, name, nil)
	buf := make([]byte, max(size, 0))
	if err == nil && size > 0 {
		size, err = unix.Lgetxattr(path, name, buf)
	}
	if err != nil {
		return "", fmt.Errorf("read attribute %s of %s: %w", name, path, err)
	}
	return string(buf[:size]), nil
}
