//go:build linux

package layer

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPath bounds a name in an archive; it is the kernel's PATH_MAX.
const maxPath = 4096

// paxXattr is the prefix under which PAX archives keep extended attributes.
const paxXattr = "SCHILY.xattr."

// Stats counts what Extract has written.
type Stats struct {
	Entries int
	Bytes   int64
}

// Extract writes the tar archive's tree into dir, which exists. Later entries
// replace earlier ones. Names that lead out of dir are refused. The archive may
// be followed by anything: a tar file on a block device has a padded end.
func Extract(archive io.Reader, dir string) (stats Stats, err error) {
	t, err := openTree(dir)
	if err != nil {
		return stats, err
	}
	defer func() { err = t.close(err) }()
	watch := &watcher{Reader: bufio.NewReaderSize(archive, 1<<20)}
	entries := tar.NewReader(watch)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return stats, fmt.Errorf("read archive after %d entries: %w", stats.Entries, err)
		}
		n, skip, err := fromHeader(header)
		if err != nil {
			return stats, fmt.Errorf("archive entry %q: %w", header.Name, err)
		}
		if skip {
			continue
		}
		size, err := t.put(n, entries)
		if err != nil {
			return stats, err
		}
		stats.Entries++
		stats.Bytes += size
	}
	// A whole archive ends with blocks of zeros, before the reader does.
	if watch.ended {
		return stats, fmt.Errorf("archive is cut short after %d entries", stats.Entries)
	}
	if stats.Entries == 0 {
		return stats, errors.New("archive is empty")
	}
	return stats, nil
}

// watcher notes whether the end of the reader was met.
type watcher struct {
	io.Reader
	ended bool
}

func (w *watcher) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	w.ended = w.ended || errors.Is(err, io.EOF)
	return n, err
}

func fromHeader(h *tar.Header) (n node, skip bool, err error) {
	if n.path, err = cleanName(h.Name); err != nil {
		return n, false, err
	}
	n.uid, n.gid, n.mtime = h.Uid, h.Gid, h.ModTime
	n.mode = uint32(h.Mode) & 0o7777
	n.rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		n.mode |= unix.S_IFREG
	case tar.TypeDir:
		n.mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		n.mode |= unix.S_IFLNK
		n.target = h.Linkname
	case tar.TypeLink:
		n.source, err = cleanName(h.Linkname)
	case tar.TypeChar:
		n.mode |= unix.S_IFCHR
	case tar.TypeBlock:
		n.mode |= unix.S_IFBLK
	case tar.TypeFifo:
		n.mode |= unix.S_IFIFO
	case tar.TypeXGlobalHeader:
		return n, true, nil
	default:
		err = fmt.Errorf("unknown type %q", h.Typeflag)
	}
	if n.path == "." && h.Typeflag != tar.TypeDir {
		err = errors.New("the root is not a directory")
	}
	n.xattrs = xattrsOf(h.PAXRecords)
	return n, false, err
}

func cleanName(name string) (string, error) {
	if len(name) > maxPath || strings.ContainsRune(name, 0) {
		return "", errors.New("bad name")
	}
	name = path.Clean(strings.TrimPrefix(name, "/"))
	if !filepath.IsLocal(name) {
		return "", errors.New("name leads out of the tree")
	}
	return name, nil
}

func xattrsOf(records map[string]string) map[string]string {
	var attrs map[string]string
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			if attrs == nil {
				attrs = map[string]string{}
			}
			attrs[name] = value
		}
	}
	return attrs
}
