package imagebuild

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// Locked is a distribution's package of which the base takes exactly one file.
type Locked struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the package file, lower-case hexadecimal
}

// errOutrun is the cause where the archive has other packages than those locked.
var errOutrun = errors.New("the archive has other packages")

// relock is what mends that.
const relock = "scripts/refresh-pins --packages --write locks what the archive has today; " +
	"--unlocked builds from that once, and the build record says what it was."

// outrun is the fault with that cause.
func outrun(arch, format string, args ...any) error {
	return fault.New(fault.Build, relock, "%s %s: %w", images.BaseLock(arch), fmt.Sprintf(format, args...), errOutrun)
}

// lockHead begins every lock file.
const lockHead = "# Every package of the base, with the SHA-256 of its file. Made by\n# scripts/refresh-pins --packages --write.\n"

// readLocks reads the lock file of each architecture.
func readLocks(files fs.FS) (map[string][]Locked, error) {
	locks := map[string][]Locked{}
	for _, arch := range Arches {
		raw, err := fs.ReadFile(files, images.BaseLock(arch))
		if err != nil {
			return nil, fmt.Errorf("read the base's lock file: %w", err)
		}
		if locks[arch], err = parseLock(string(raw)); err != nil {
			return nil, fault.New(fault.Usage, "", "%s: %w", images.BaseLock(arch), err)
		}
	}
	return locks, nil
}

// parseLock reads lines of name, version and digest; "#" begins a comment.
func parseLock(text string) (lock []Locked, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if len(words) != 3 || !packageName(words[0]) || !debVersion(words[1]) || !sha256Hex(words[2]) {
			return nil, fmt.Errorf("line %d: %q is not a package's name, version and SHA-256", n, strings.TrimSpace(line))
		}
		lock = append(lock, Locked{Name: words[0], Version: words[1], SHA256: words[2]})
	}
	return lock, nil
}

// debVersion tells whether s may be a package's version: the signs that Debian's
// policy knows.
func debVersion(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune(".+-~:", r) })
}

// validateLocks wants a lock for each architecture that has what the recipe names.
func (b Base) validateLocks() error {
	for _, arch := range Arches {
		for _, name := range b.Packages {
			if !slices.ContainsFunc(b.Locks[arch], func(l Locked) bool { return l.Name == name }) {
				return fmt.Errorf("%s has no package %s: scripts/refresh-pins --packages --write adds it", images.BaseLock(arch), name)
			}
		}
	}
	return nil
}

// lock is what the base's packages have to be; nil: whatever the archive has.
func (b Base) lock(req Request) []Locked {
	if req.outrun {
		return nil
	}
	return b.Locks[req.Arch]
}

// wanted are the words by which apt finds the base's packages.
func (b Base) wanted(lock []Locked) (words []string) {
	if lock == nil {
		return append([]string{"?essential"}, b.Packages...)
	}
	for _, l := range lock {
		words = append(words, l.Name+"="+l.Version)
	}
	return words
}

// gone is what apt says of a version that its archive does not have.
var gone = regexp.MustCompile(`Version '([^']+)' for '([^']+)' was not found`)

// basePackages downloads the base's packages, and no other files than those locked.
func (b *Builder) basePackages(ctx context.Context, arch string, lock []Locked, dir string) ([]*deb, error) {
	debs, err := b.packages(ctx, arch, b.base.wanted(lock), dir)
	if err != nil && lock != nil {
		return nil, lacking(err, arch)
	}
	if err != nil || lock == nil {
		return debs, err
	}
	return debs, checkPackages(debs, lock, arch)
}

// lacking is the error where apt says that locked versions are not there any more.
func lacking(err error, arch string) error {
	var names []string
	for _, m := range gone.FindAllStringSubmatch(err.Error(), -1) {
		names = append(names, m[2]+" "+m[1])
	}
	if names == nil {
		return err
	}
	return outrun(arch, "locks versions that Debian's archive has no more, %s", strings.Join(names, ", "))
}

// checkPackages compares what was downloaded with the lock.
func checkPackages(debs []*deb, lock []Locked, arch string) error {
	missing := map[string]Locked{}
	for _, l := range lock {
		missing[l.Name] = l
	}
	for _, d := range debs {
		in, err := input(d.name, d.version, d.path)
		if err != nil {
			return err
		}
		l, ok := missing[d.name]
		delete(missing, d.name)
		switch {
		case !ok || l.Version != d.version:
			return outrun(arch, "does not lock %s %s, which the base needs", d.name, d.version)
		case l.SHA256 != in.SHA256:
			return fault.New(fault.Trust, "Nothing of it was used. A mirror or proxy that changes packages is wrong, or the lock is.",
				"package %s %s has SHA-256 %s, %s locks %s", d.name, d.version, in.SHA256, images.BaseLock(arch), l.SHA256)
		}
	}
	for _, l := range lock {
		if _, ok := missing[l.Name]; ok {
			return outrun(arch, "locks %s, which the archive did not give", l.Name)
		}
	}
	return nil
}

// LockPackages has apt resolve the base's packages as the archive has them today and
// gives the lock file for that. It leaves the package files below dir.
func LockPackages(ctx context.Context, run *process.Runner, base Base, arch, dir string) ([]byte, error) {
	if err := CheckArch(arch); err != nil {
		return nil, err
	}
	if err := fetchPackages(ctx, run, base.Suite, arch, base.wanted(nil), dir); err != nil {
		return nil, err
	}
	debs, err := readPackages(ctx, run, dir)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(debs, func(a, b *deb) int { return cmp.Compare(a.name, b.name) })
	text := bytes.NewBufferString(lockHead)
	for _, d := range debs {
		in, err := input(d.name, d.version, d.path)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(text, "%s %s %s\n", d.name, d.version, in.SHA256)
	}
	return text.Bytes(), nil
}
