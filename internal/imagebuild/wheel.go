package imagebuild

import (
	"archive/zip"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/smolvm/smolvm/internal/process"
)

// fetchWheel downloads the wheel for an architecture into dir with pip, which
// checks the pinned digest, and returns the file's path.
func fetchWheel(ctx context.Context, run *process.Runner, w Wheel, arch, dir string) (string, error) {
	p := w.Platforms[arch]
	dir = filepath.Join(dir, w.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock := filepath.Join(dir, "requirements.txt")
	line := fmt.Sprintf("%s==%s --hash=sha256:%s\n", w.Name, w.Version, p.SHA256)
	if err := os.WriteFile(lock, []byte(line), 0o644); err != nil {
		return "", err
	}
	cmd := run.Command(ctx, process.Pip, "download", "--quiet", "--disable-pip-version-check", "--no-input",
		"--no-cache-dir", "--no-deps", "--require-hashes", "--only-binary=:all:", "--platform", p.Tag, "--dest", dir, "-r", lock)
	if err := process.Run(cmd); err != nil {
		return "", fetchFailed(err, "download %s %s for %s", w.Name, w.Version, arch)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("download %s %s for %s: pip left %d wheels (%v)", w.Name, w.Version, arch, len(found), err)
	}
	return found[0], nil
}

// copyTo puts the wheel's wanted files and links into the archive.
func (w Wheel) copyTo(root *rootTar, path string) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		return fmt.Errorf("open wheel %s: %w", w.Name, err)
	}
	defer z.Close()
	slices.SortFunc(z.File, func(a, b *zip.File) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range w.Paths {
		n, err := p.copyTo(root, z.File)
		if err == nil && n == 0 {
			err = fmt.Errorf("nothing is there")
		}
		if err != nil {
			return fmt.Errorf("wheel %s: %s: %w", w.Name, p.From, err)
		}
	}
	for _, l := range w.Links {
		if err := root.link(l.Path, l.Target); err != nil {
			return fmt.Errorf("wheel %s: %w", w.Name, err)
		}
	}
	return nil
}

// copyTo puts the files of one path into the archive and counts them.
func (p WheelPath) copyTo(root *rootTar, files []*zip.File) (n int, err error) {
	for _, f := range files {
		to, ok := p.place(f.Name)
		if !ok || f.FileInfo().IsDir() {
			continue
		}
		if err := copyZipFile(root, f, to, p.mode(f)); err != nil {
			return n, fmt.Errorf("%s: %w", f.Name, err)
		}
		n++
	}
	return n, nil
}

// place says where a file of the wheel goes. Names with ".." are never taken.
func (p WheelPath) place(name string) (string, bool) {
	if !fs.ValidPath(strings.TrimSuffix(name, "/")) {
		return "", false
	}
	if !strings.HasSuffix(p.From, "/") {
		return p.To, name == p.From
	}
	rest, ok := strings.CutPrefix(name, p.From)
	if !ok || slices.ContainsFunc(p.Exclude, func(e string) bool { return strings.HasPrefix(rest, e) }) {
		return "", false
	}
	return p.To + rest, true
}

func (p WheelPath) mode(f *zip.File) int64 {
	if m, err := strconv.ParseInt(p.Mode, 8, 64); err == nil {
		return m
	}
	if f.Mode().Perm()&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

func copyZipFile(root *rootTar, f *zip.File, to string, mode int64) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return root.file(to, mode, int64(f.UncompressedSize64), r)
}
