package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	maxDirectory = 64 << 20 // bytes
	maxPath      = 4096     // the kernel's PATH_MAX
	maxLinks     = 40       // followed for one name, as the kernel does
	maxTarget    = 4096
	shortTarget  = 60 // bytes of a link's target that fit into the inode
)

// Kinds of files in an inode's mode.
const (
	kindMask      = 0xF000
	kindFifo      = 0x1000
	kindCharacter = 0x2000
	kindDirectory = 0x4000
	kindBlock     = 0x6000
	kindRegular   = 0x8000
	kindLink      = 0xA000
	kindSocket    = 0xC000
)

// Entry is one name in the file system.
type Entry struct {
	Name  string // path from the root, without a slash before it
	Mode  fs.FileMode
	Size  int64
	Taken int64 // bytes of its blocks
	Links int   // names of the file
	Inode uint32
	// Whiteout: overlayfs hides what the layers below have under this name.
	Whiteout bool
	// Opaque: of a directory, the layers below show nothing in it.
	Opaque bool
	// Redirect: of a directory, the name under which the layers below have it.
	Redirect string
}

// Walk visits everything below the root, a directory before what is in it, names
// in their order; fs.SkipDir of a directory's visit leaves out what is in it. A directory with two names ends the walk: nothing that mkfs.ext4
// made has one, and the walk might not end.
func (f *FS) Walk(visit func(Entry) error) error {
	return f.walk("", rootInode, map[uint32]bool{}, visit)
}

func (f *FS) walk(dir string, number uint32, seen map[uint32]bool, visit func(Entry) error) error {
	if seen[number] || len(dir) > maxPath {
		return fmt.Errorf("%w: directory %.200q is in itself, or has two names", ErrFormat, dir)
	}
	seen[number] = true
	n, err := f.inode(number)
	if err != nil {
		return err
	}
	names, err := f.readDirectory(n)
	if err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}
	for _, name := range names {
		child, err := f.inode(name.inode)
		if err != nil {
			return err
		}
		entry, err := f.entry(path.Join(dir, name.text), child)
		if err != nil {
			return err
		}
		err = visit(entry)
		if errors.Is(err, fs.SkipDir) && entry.Mode.IsDir() {
			continue
		}
		if err != nil {
			return err
		}
		if entry.Mode.IsDir() {
			if err := f.walk(entry.Name, name.inode, seen, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry describes an inode under a name.
func (f *FS) entry(name string, n inode) (Entry, error) {
	e := Entry{
		Name: name, Mode: fs.FileMode(n.mode & 0o777), Size: n.size, Taken: n.taken, Links: int(n.links), Inode: n.number,
	}
	switch n.mode & kindMask {
	case kindRegular:
	case kindDirectory:
		e.Mode |= fs.ModeDir
		return e, f.overlay(n, &e)
	case kindLink:
		e.Mode |= fs.ModeSymlink
	case kindCharacter:
		e.Mode |= fs.ModeDevice | fs.ModeCharDevice
		e.Whiteout = binary.LittleEndian.Uint64(n.place) == 0
	case kindBlock:
		e.Mode |= fs.ModeDevice
	case kindFifo:
		e.Mode |= fs.ModeNamedPipe
	case kindSocket:
		e.Mode |= fs.ModeSocket
	default:
		return e, fmt.Errorf("%w: %q: mode %#o", ErrFormat, name, n.mode)
	}
	return e, nil
}

// link is a name in a directory.
type link struct {
	text  string
	inode uint32
}

// readDirectory gives the names in a directory, sorted, without "." and "..". The
// blocks of a directory's hash tree look like unused entries and are passed over.
func (f *FS) readDirectory(n inode) ([]link, error) {
	if n.mode&kindMask != kindDirectory || n.size > maxDirectory {
		return nil, fmt.Errorf("%w: inode %d is no directory, or a huge one", ErrFormat, n.number)
	}
	c, err := f.content(n)
	if err != nil {
		return nil, err
	}
	var names []link
	block := make([]byte, f.block)
	for at := int64(0); at < n.size; at += f.block {
		if _, err := c.ReadAt(block, at); err != nil {
			return nil, err
		}
		if names, err = appendNames(names, block); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(names, func(a, b link) int { return strings.Compare(a.text, b.text) })
	return names, nil
}

// appendNames reads one block of a directory.
func appendNames(names []link, block []byte) ([]link, error) {
	const head = 8
	for len(block) >= head {
		number := binary.LittleEndian.Uint32(block)
		length, size := int(binary.LittleEndian.Uint16(block[4:])), int(block[6])
		if length < head+size || length > len(block) {
			return nil, fmt.Errorf("%w: a directory entry of %d bytes", ErrFormat, length)
		}
		text := string(block[head : head+size])
		block = block[length:]
		if number == 0 || text == "." || text == ".." {
			continue
		}
		if text == "" || strings.ContainsAny(text, "/\x00") {
			return nil, fmt.Errorf("%w: a file is called %q", ErrFormat, text)
		}
		names = append(names, link{text, number})
	}
	return names, nil
}

// ReadFile reads the file of a name, through symbolic links, as long as it has at
// most limit bytes. The error of a name that is not there is fs.ErrNotExist's.
func (f *FS) ReadFile(name string, limit int64) ([]byte, error) {
	n, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	if n.mode&kindMask != kindRegular || n.size > limit {
		return nil, fmt.Errorf("read %q: it is no file, or has more than %d bytes", name, limit)
	}
	return f.read(n)
}

func (f *FS) read(n inode) ([]byte, error) {
	c, err := f.content(n)
	if err != nil {
		return nil, err
	}
	data := make([]byte, n.size)
	if _, err := c.ReadAt(data, 0); err != nil && !(errors.Is(err, io.EOF) && n.size == 0) {
		return nil, err
	}
	return data, nil
}

// lookup finds the inode of a name, through symbolic links that stay inside.
func (f *FS) lookup(name string) (inode, error) {
	rest, at, links := strings.Split(path.Clean("/" + name)[1:], "/"), "", 0
	n, err := f.inode(rootInode)
	for err == nil && len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		if word == "" {
			continue
		}
		var child inode
		if child, err = f.child(n, word); err != nil {
			break
		}
		if child.mode&kindMask != kindLink {
			n, at = child, path.Join(at, word)
			continue
		}
		var target string
		if target, err = f.target(child); err != nil {
			break
		}
		if links++; links > maxLinks {
			return inode{}, fmt.Errorf("%w: %q leads through too many links", fs.ErrNotExist, name)
		}
		if !path.IsAbs(target) {
			target = path.Join("/", at, target)
		}
		rest = append(strings.Split(path.Clean(target)[1:], "/"), rest...)
		at = ""
		n, err = f.inode(rootInode)
	}
	if err != nil {
		return inode{}, fmt.Errorf("find %q: %w", name, err)
	}
	return n, nil
}

// child finds a name in a directory.
func (f *FS) child(dir inode, name string) (inode, error) {
	names, err := f.readDirectory(dir)
	if err != nil {
		return inode{}, err
	}
	i, found := slices.BinarySearchFunc(names, name, func(l link, name string) int { return strings.Compare(l.text, name) })
	if !found {
		return inode{}, fs.ErrNotExist
	}
	return f.inode(names[i].inode)
}

// target is where a symbolic link leads.
func (f *FS) target(n inode) (string, error) {
	if n.size < shortTarget {
		return string(n.place[:n.size]), nil
	}
	if n.size > maxTarget {
		return "", fmt.Errorf("%w: inode %d: a link of %d bytes", ErrFormat, n.number, n.size)
	}
	raw, err := f.read(n)
	return string(raw), err
}
