package share

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// tree is one mount: a folder's descriptor, or that of the folder around a file.
// All it does begins there, so nothing that happens to the path above it matters.
type tree struct {
	Mount
	top  *os.File
	file string // the one name that is served of top; empty: all of it
	gone atomic.Bool
}

func openTree(m Mount) (*tree, error) {
	if !filepath.IsAbs(m.Host) {
		return nil, errors.New("the path is not absolute")
	}
	info, err := os.Lstat(m.Host)
	if err != nil {
		return nil, err
	}
	t := &tree{Mount: m}
	folder := m.Host
	switch {
	case info.IsDir():
	case info.Mode().IsRegular():
		folder, t.file = filepath.Dir(m.Host), filepath.Base(m.Host)
	case info.Mode()&os.ModeSymlink != 0:
		return nil, errors.New("it is a link by now")
	default:
		return nil, errors.New("it is neither a folder nor a file")
	}
	if t.top, err = openTop(folder); err != nil {
		return nil, err
	}
	return t, nil
}

// close lets go of the folder. What still uses it gets an error.
func (t *tree) close() error {
	t.gone.Store(true)
	return t.top.Close()
}

// spot is where a file is: a name in an open folder. Nobody but the holder
// closes the folder.
type spot struct {
	dir  int
	name string
	own  bool // dir is closed with the spot
}

func (p spot) close() {
	if p.own {
		_ = syscall.Close(p.dir)
	}
}

// top of the mount itself.
func (t *tree) self() spot {
	if t.file != "" {
		return spot{dir: int(t.top.Fd()), name: t.file}
	}
	return spot{dir: int(t.top.Fd()), name: "."}
}

// at opens the folder around a path below the mount. No part of the path is
// followed if it is a link.
func (t *tree) at(below string) (spot, error) {
	if t.file != "" {
		return spot{}, syscall.ENOTDIR
	}
	if dir := path.Dir(below); dir != "." {
		fd, err := openFolder(int(t.top.Fd()), dir)
		return spot{fd, path.Base(below), true}, stale(err)
	}
	return spot{dir: int(t.top.Fd()), name: below}, nil
}

// stale makes a folder that turned into a link look like what it is to the
// guest: no longer what it knew.
func stale(err error) error {
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EXDEV) {
		return syscall.ESTALE
	}
	return err
}

// valid refuses what is not one name in one folder.
func valid(name string) error {
	switch {
	case name == "", name == ".", name == "..", strings.ContainsRune(name, '/'):
		return syscall.EINVAL
	case len(name) > maxName:
		return syscall.ENAMETOOLONG
	}
	return nil
}

// walk opens a folder one name after another, for systems that cannot confine a
// path. Each is opened without following a link, so none leads out.
func walk(top int, below string, open func(dir int, name string) (int, error)) (int, error) {
	fd, own := top, false
	for name := range strings.SplitSeq(below, "/") {
		next, err := open(fd, name)
		if own {
			_ = syscall.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		fd, own = next, true
	}
	return fd, nil
}

// stat is what this computer says of a file.
type stat struct {
	id   fileID
	attr attr // owner and number as they are here
	dev  uint64
}

func (s stat) version() version { return version{s.attr.size, s.attr.mtime, s.attr.ctime} }

// find opens the folder of one of a node's places, checking that the node still
// is there. The caller holds the table's moving lock for reading, and closes the
// spot.
func (s *Server) find(n *node) (spot, stat, error) {
	if n.id.kind == mountKind {
		p := n.tree.self()
		st, err := statAt(p.dir, p.name)
		return p, st, err
	}
	var last error = syscall.ENOENT
	for _, at := range s.table.placesOf(n) {
		p, st, err := s.look(n.tree, at)
		if err == nil && n.is(st.id) {
			return p, st, nil
		}
		if err == nil {
			err = syscall.ESTALE
		}
		p.close()
		last = err
	}
	return spot{}, stat{}, last
}

// is says whether what was found is the node. A folder that was replaced by
// another of its name goes on as that one, as it would for a program whose
// working folder a version control system has made anew.
func (n *node) is(id fileID) bool {
	return id == n.id || id.kind == typeFolder && n.id.kind == typeFolder
}

// look opens the folder of a place and says what is there.
func (s *Server) look(t *tree, at place) (spot, stat, error) {
	below, ok := s.table.pathOf(at)
	if !ok {
		return spot{}, stat{}, syscall.ENOENT
	}
	p, err := t.at(below)
	if err != nil {
		return spot{}, stat{}, err
	}
	st, err := statAt(p.dir, p.name)
	return p, st, err
}

// within opens a folder itself, to work on a name in it.
func (s *Server) within(n *node, name string) (spot, error) {
	if err := valid(name); err != nil {
		return spot{}, err
	}
	if n.id.kind == mountKind {
		return n.tree.at(name)
	}
	below, ok := s.table.pathOf(place{n, name})
	if !ok {
		return spot{}, syscall.ENOENT
	}
	return n.tree.at(below)
}

// identity is who runs this process.
type identity struct {
	uid    uint32
	groups []uint32
}

func self() identity {
	me := identity{uid: uint32(os.Geteuid()), groups: []uint32{uint32(os.Getegid())}}
	more, _ := os.Getgroups() // without it the first group has to do
	for _, g := range more {
		me.groups = append(me.groups, uint32(g))
	}
	return me
}

// nobody owns what neither the user nor root owns.
const nobody = 65534

// seen is a file's attributes as the guest sees them. Files of this user are the
// guest's agent's; numbers of files on further devices are told apart.
func (s *Server) seen(st stat) attr {
	a := st.attr
	switch {
	case a.uid == s.host.uid:
		a.uid = s.owner.UID
	case a.uid != 0:
		a.uid = nobody
	}
	switch {
	case slices.Contains(s.host.groups, a.gid):
		a.gid = s.owner.GID
	case a.gid != 0:
		a.gid = nobody
	}
	a.ino = s.number(st.dev, st.id.ino)
	return a
}

// number is a file's for the guest, to which all mounts are one device.
func (s *Server) number(dev, ino uint64) uint64 {
	if ino == unknown {
		return unknown
	}
	return ino ^ s.device(dev)<<48
}

// device numbers the file systems that mounts reach, in the order they are seen.
func (s *Server) device(dev uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.devices[dev]
	if !ok {
		n = uint64(len(s.devices))
		s.devices[dev] = n
	}
	return n
}
