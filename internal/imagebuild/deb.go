package imagebuild

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5" // dpkg's own database records files by MD5; nothing is trusted by it
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/smolvm/smolvm/internal/process"
)

// maxControl bounds the control members of one package, in bytes. The largest of
// Debian 13's base packages has 0.3 MiB.
const maxControl = 16 << 20

// deb is one Debian package file, as dpkg's database will know it.
type deb struct {
	path    string
	name    string
	version string
	arch    string
	shared  bool              // Multi-Arch: same, whose database files carry the architecture
	control []string          // the paragraph's lines, continuation lines included
	members map[string][]byte // control members but "control": scripts, triggers, md5sums, ...
	files   []string          // absolute paths it ships, directories included, in order
	md5     map[string]string // of its configuration files
}

// readControl reads the control members of a package file.
func readControl(ctx context.Context, run *process.Runner, file string) (*deb, error) {
	raw, err := process.Output(run.Command(ctx, process.DpkgDeb, "--ctrl-tarfile", file))
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", path.Base(file), err)
	}
	d, err := parseControl(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", path.Base(file), err)
	}
	d.path = file
	return d, nil
}

// parseControl reads a control archive.
func parseControl(r io.Reader) (*deb, error) {
	d := &deb{members: map[string][]byte{}, md5: map[string]string{}}
	in := tar.NewReader(io.LimitReader(r, maxControl))
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "./")
		if h.Typeflag != tar.TypeReg || strings.Contains(name, "/") {
			continue
		}
		if d.members[name], err = io.ReadAll(in); err != nil {
			return nil, fmt.Errorf("control member %s: %w", name, err)
		}
	}
	if err := d.parseParagraph(string(d.members["control"])); err != nil {
		return nil, err
	}
	delete(d.members, "control")
	for _, c := range d.conffiles() {
		d.md5[c] = ""
	}
	return d, nil
}

func (d *deb) parseParagraph(text string) error {
	d.control = strings.Split(strings.TrimRight(text, "\n"), "\n")
	for _, line := range d.control {
		if line == "" {
			return fmt.Errorf("control has more than one paragraph")
		}
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(key) {
		case "package":
			d.name = value
		case "version":
			d.version = value
		case "architecture":
			d.arch = value
		case "multi-arch":
			d.shared = value == "same"
		}
	}
	if !packageName(d.name) || d.version == "" || !word(d.arch) {
		return fmt.Errorf("control names package %q version %q architecture %q", d.name, d.version, d.arch)
	}
	return nil
}

// conffiles are the absolute paths of the package's configuration files.
func (d *deb) conffiles() []string {
	var paths []string
	for line := range strings.Lines(string(d.members["conffiles"])) {
		if line = strings.TrimSpace(line); path.IsAbs(line) {
			paths = append(paths, line)
		}
	}
	return paths
}

// stem is how the database's files of the package are named.
func (d *deb) stem() string {
	if d.shared {
		return d.name + ":" + d.arch
	}
	return d.name
}

// copyData passes the package's files on to put, noting their names and the
// sums of configuration files.
func (d *deb) copyData(ctx context.Context, run *process.Runner, put func(*tar.Header, io.Reader) error) error {
	cmd := run.Command(ctx, process.DpkgDeb, "--fsys-tarfile", d.path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	tail := process.NewTail(nil)
	cmd.Stderr = tail
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpack %s: %w", path.Base(d.path), err)
	}
	copyErr := d.copyTar(out, put)
	_, _ = io.Copy(io.Discard, out) // so that a failed copy does not block the program
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", path.Base(d.path), err, tail)
	}
	if copyErr != nil {
		return fmt.Errorf("unpack %s: %w", path.Base(d.path), copyErr)
	}
	return nil
}

func (d *deb) copyTar(r io.Reader, put func(*tar.Header, io.Reader) error) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(path.Clean(h.Name), "./")
		if name == "/." {
			name = "/"
		}
		d.files = append(d.files, name)
		if err := d.putFile(name, h, in, put); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

func (d *deb) putFile(name string, h *tar.Header, in io.Reader, put func(*tar.Header, io.Reader) error) error {
	if _, conf := d.md5[name]; !conf || h.Typeflag != tar.TypeReg {
		return put(h, in)
	}
	sum := md5.New()
	if err := put(h, io.TeeReader(in, sum)); err != nil {
		return err
	}
	d.md5[name] = hex.EncodeToString(sum.Sum(nil))
	return nil
}
