package imagebuild

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// rootTar writes the archive that becomes the root of a bootstrap sandbox. Each
// path is written once: directories that several packages ship by the first of
// them; a file that comes twice is an error.
type rootTar struct {
	out     *tar.Writer
	dirs    map[string]bool
	written map[string]bool
	aliases map[string]string // top-level symbolic links of a merged /usr
	keep    func(name string) bool
	moment  time.Time // the newest file's time, for files of our own
}

// newRootTar starts an archive from which paths are left out that keep denies.
func newRootTar(w io.Writer, keep func(name string) bool) *rootTar {
	return &rootTar{
		out: tar.NewWriter(w), dirs: map[string]bool{}, written: map[string]bool{},
		aliases: map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"},
		keep:    keep, moment: time.Unix(0, 0).UTC(),
	}
}

// put adds one entry of a package's archive.
func (t *rootTar) put(h *tar.Header, r io.Reader) error {
	name := t.canonical(h.Name)
	if name == "" || !t.keep("/"+name) {
		return nil
	}
	if h.ModTime.After(t.moment) {
		t.moment = h.ModTime.UTC().Truncate(time.Second)
	}
	entry := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, Size: h.Size,
		Linkname: h.Linkname, ModTime: h.ModTime.UTC().Truncate(time.Second), Devmajor: h.Devmajor, Devminor: h.Devminor,
	}
	if h.Typeflag == tar.TypeLink {
		entry.Linkname = t.canonical(h.Linkname)
	}
	return t.write(entry, r)
}

// canonical is the entry's name without leading "./" and through the links of a merged /usr.
func (t *rootTar) canonical(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, rest, below := strings.Cut(name, "/")
	if target, ok := t.aliases[first]; ok && below {
		return target + "/" + rest
	}
	return name
}

func (t *rootTar) write(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		if t.dirs[h.Name] {
			return nil
		}
		t.dirs[h.Name] = true
		h.Name += "/"
		return t.out.WriteHeader(h)
	}
	if t.written[h.Name] {
		return fmt.Errorf("%s comes from more than one package", h.Name)
	}
	t.written[h.Name] = true
	if err := t.parents(path.Dir(h.Name)); err != nil {
		return err
	}
	h.Format = tar.FormatGNU
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(t.out, r)
	return err
}

// parents adds directories that nothing shipped.
func (t *rootTar) parents(dir string) error {
	if dir == "." || t.dirs[dir] {
		return nil
	}
	if err := t.parents(path.Dir(dir)); err != nil {
		return err
	}
	return t.write(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: t.moment}, nil)
}

// file adds a file of our own; name is absolute.
func (t *rootTar) file(name string, mode, size int64, r io.Reader) error {
	return t.write(&tar.Header{
		Typeflag: tar.TypeReg, Name: t.canonical(name), Mode: mode, Size: size, ModTime: t.moment,
	}, r)
}

// link adds a symbolic link of our own; name is absolute.
func (t *rootTar) link(name, target string) error {
	return t.write(&tar.Header{
		Typeflag: tar.TypeSymlink, Name: t.canonical(name), Linkname: target, Mode: 0o777, ModTime: t.moment,
	}, strings.NewReader(""))
}

// close ends the archive.
func (t *rootTar) close() error { return t.out.Close() }

// pathFilter is dpkg's path-exclude and path-include: an included path stays
// whatever excludes it. Directories above it are made by parents.
func pathFilter(exclude, include []string) func(name string) bool {
	matches := func(patterns []string, name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matchPath(p, name) })
	}
	return func(name string) bool { return matches(include, name) || !matches(exclude, name) }
}

// matchPath matches as dpkg does: * crosses slashes.
func matchPath(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return name == pattern
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	for i := len(head); i <= len(name); i++ {
		if matchPath(rest, name[i:]) {
			return true
		}
	}
	return false
}
