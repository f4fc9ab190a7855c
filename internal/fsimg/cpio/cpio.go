// Package cpio writes archives in cpio's "newc" format, which Linux unpacks into
// its initial RAM file system. Input is a list of entries; output is the bytes
// of one archive, equal for equal input. It writes nothing of its own to disk.
//
// The format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst;
// several archives may follow each other, each on a border of four bytes.
package cpio

import (
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"
)

// Types of entries, to be combined with permission bits in Entry.Mode. They are
// those of stat(2) on Linux.
const (
	Regular   = 0o100000
	Directory = 0o040000
	Symlink   = 0o120000
	CharDev   = 0o020000

	typeMask = 0o170000
	maxMode  = typeMask | 0o7777
)

const (
	magic   = "070701"
	header  = len(magic) + 13*8
	trailer = "TRAILER!!!"

	// align is the size to which an archive is filled with zeros: more than the
	// four bytes another archive behind it needs.
	align = 512

	maxName = 4096 // the kernel's PATH_MAX, which unpacking enforces
	maxData = 1<<32 - 1
)

// Entry is one file, owned by root. Parents come before what is in them.
type Entry struct {
	Name         string // relative, clean path
	Mode         uint32 // type and permissions
	Data         []byte // contents, or a symlink's target
	Major, Minor uint32 // of a device
}

// Write writes one archive with the entries in the given order.
func Write(w io.Writer, entries []Entry) error {
	out := writer{w: w}
	for i, e := range entries {
		if err := e.check(); err != nil {
			return fmt.Errorf("write cpio archive: %w", err)
		}
		out.entry(e, i+1)
	}
	out.entry(Entry{Name: trailer}, 0)
	out.pad(align)
	if out.err != nil {
		return fmt.Errorf("write cpio archive: %w", out.err)
	}
	return nil
}

func (e Entry) check() error {
	if len(e.Name) >= maxName || !filepath.IsLocal(e.Name) || path.Clean(e.Name) != e.Name ||
		strings.Contains(e.Name, "\x00") || e.Name == trailer {
		return fmt.Errorf("%.100q is no name for an entry", e.Name)
	}
	if e.Mode > maxMode || int64(len(e.Data)) > maxData {
		return fmt.Errorf("entry %q has mode %o and %d bytes", e.Name, e.Mode, len(e.Data))
	}
	switch e.Mode & typeMask {
	case Regular, Symlink:
	case Directory, CharDev:
		if len(e.Data) > 0 {
			return fmt.Errorf("entry %q has contents, but is not a file", e.Name)
		}
	default:
		return fmt.Errorf("entry %q has type %o", e.Name, e.Mode&typeMask)
	}
	return nil
}

// writer counts, so that it can pad, and keeps the first error.
type writer struct {
	w   io.Writer
	n   int64
	err error
}

// entry writes the header's thirteen numbers, the name and the contents, name
// and contents each padded to four bytes. Inode numbers differ and link counts
// are one, so that nothing is taken for a hard link.
func (w *writer) entry(e Entry, inode int) {
	h := make([]byte, 0, header)
	h = append(h, magic...)
	for _, v := range []uint32{
		uint32(inode), e.Mode, 0, 0, 1, 0, uint32(len(e.Data)), // inode, mode, uid, gid, links, mtime, size
		0, 0, e.Major, e.Minor, uint32(len(e.Name) + 1), 0, // the archive's device, the entry's, name, checksum
	} {
		h = fmt.Appendf(h, "%08x", v)
	}
	w.write(h)
	w.write(append([]byte(e.Name), 0))
	w.pad(4)
	w.write(e.Data)
	w.pad(4)
}

func (w *writer) write(p []byte) {
	if w.err != nil {
		return
	}
	var n int
	n, w.err = w.w.Write(p)
	w.n += int64(n)
}

func (w *writer) pad(to int64) {
	w.write(make([]byte, (to-w.n%to)%to))
}
