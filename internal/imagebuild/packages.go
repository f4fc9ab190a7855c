package imagebuild

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/process"
)

// fetchPackages has apt resolve, download and verify packages (with all they
// depend on) for an architecture and leaves the package files, and the
// distribution's sources list as "sources.list", in dir. Nothing that was
// downloaded runs. mmdebstrap needs no root: it uses a user namespace.
func fetchPackages(ctx context.Context, run *process.Runner, suite, arch string, include []string, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	args := []string{
		"--variant=extract", "--format=null", "--quiet", "--architectures=" + arch,
		"--skip=check/qemu", "--aptopt=Apt::Install-Recommends false",
		"--extract-hook=copy-out /etc/apt/sources.list /var/cache/apt/archives " + shellQuote(dir),
	}
	for _, p := range include {
		args = append(args, "--include="+p)
	}
	if err := process.Run(run.Command(ctx, process.Mmdebstrap, append(args, suite, "-")...)); err != nil {
		return fetchFailed(err, "download packages of %s for %s", suite, arch)
	}
	return nil
}

// shellQuote quotes a word for the hooks of mmdebstrap, which split theirs as a shell does.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// readPackages reads the control members of all package files below dir.
func readPackages(ctx context.Context, run *process.Runner, dir string) ([]*deb, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "archives", "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no packages in %s", dir)
	}
	slices.Sort(paths)
	debs := make([]*deb, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, path := range paths {
		group.Go(func() (err error) {
			debs[i], err = readControl(ctx, run, path)
			return err
		})
	}
	return debs, group.Wait()
}

// writeRoot writes the archive of a system whose packages are unpacked and not
// yet configured: the packages' files, dpkg's database, the wheels' files.
func writeRoot(ctx context.Context, run *process.Runner, base Base, debs []*deb, sources []byte, wheels []string, w io.Writer) error {
	root := newRootTar(w, pathFilter(base.Exclude, base.Include))
	for _, d := range debs {
		if err := d.copyData(ctx, run, root.put); err != nil {
			return err
		}
	}
	for _, f := range dpkgDatabase(debs) {
		if err := root.bytes("/var/lib/dpkg/"+f.name, f.mode, f.data); err != nil {
			return err
		}
	}
	if err := root.bytes("/etc/dpkg/dpkg.cfg.d/smolvm", 0o644, dpkgConfig(base)); err != nil {
		return err
	}
	if err := root.bytes("/etc/apt/sources.list", 0o644, sources); err != nil {
		return err
	}
	for i, path := range wheels {
		if err := base.Wheels[i].copyTo(root, path); err != nil {
			return err
		}
	}
	return root.close()
}

// dpkgConfig keeps what the base leaves out also out of what a user installs.
func dpkgConfig(base Base) []byte {
	var b bytes.Buffer
	for _, p := range base.Exclude {
		fmt.Fprintf(&b, "path-exclude=%s\n", p)
	}
	for _, p := range base.Include {
		fmt.Fprintf(&b, "path-include=%s\n", p)
	}
	return b.Bytes()
}

// bytes adds a small file of our own.
func (t *rootTar) bytes(name string, mode int64, data []byte) error {
	return t.file(name, mode, int64(len(data)), bytes.NewReader(data))
}

// find reads the files of a package that are wanted, by their absolute names.
func (d *deb) find(ctx context.Context, run *process.Runner, want func(name string) bool, take func(name string, r io.Reader) error) error {
	return d.copyData(ctx, run, func(h *tar.Header, r io.Reader) error {
		name := "/" + strings.TrimPrefix(filepath.Clean(h.Name), "./")
		if h.Typeflag != tar.TypeReg || !want(name) {
			return nil
		}
		return take(name, r)
	})
}

// BaseTools are the programs of this computer that building a base takes.
func BaseTools() []process.Tool {
	return []process.Tool{process.Mmdebstrap, process.DpkgDeb, process.Pip}
}
