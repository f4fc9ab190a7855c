package firecracker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// Oldest is the first version that has all that is asked of it.
const Oldest = "1.10"

// install says how to get the official release. A distribution's package is rarely
// new enough.
const install = "Install Firecracker " + Oldest + " or newer: take firecracker-vVERSION-ARCH.tgz and its .sha256.txt from " +
	"https://github.com/firecracker-microvm/firecracker/releases, compare the digest, and put the program into ~/.smolvm/bin as firecracker."

// Program is what a Firecracker says about itself.
type Program struct {
	Path    string
	Version string // such as 1.12.1
	SHA256  string // of the file, in hexadecimal
	Known   string // whose build that digest belongs to; empty: not one of those known here
}

// String is the program in a few words.
func (p Program) String() string { return fmt.Sprintf("Firecracker %s (%s)", p.Version, p.Path) }

// known are digests of builds that were looked at. Official releases publish theirs
// beside the archive; those of the archive's program are added as they are checked.
var known = map[string]string{
	"b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930": "the 1.12.1 that the tests run (x86-64, static)",
}

// versionLine is the first line of --version.
var versionLine = regexp.MustCompile(`^Firecracker v(\d+)\.(\d+)(\.\d+)?(-[A-Za-z0-9.]+)?\s`)

// Describe asks the program what it is. One that cannot run here, is too old, or of
// a generation whose API is not known is a Host fault.
func (d *Driver) Describe(ctx context.Context) (Program, error) {
	path, err := d.Binary()
	if err != nil {
		return Program{}, err
	}
	p := Program{Path: path}
	out, err := d.runner.Answer(ctx, process.Firecracker, "--version")
	if err != nil {
		return p, refused(path, err)
	}
	if err := p.setVersion(string(out)); err != nil {
		return p, err
	}
	p.SHA256, err = digest(path)
	p.Known = known[p.SHA256]
	return p, err
}

func refused(path string, err error) error {
	if errors.Is(err, syscall.ENOEXEC) {
		return fault.New(fault.Host, install, "run %s: it is a program for another architecture", path)
	}
	return fault.New(fault.Host, install, "ask %s what it is: %w", path, err)
}

func (p *Program) setVersion(text string) error {
	found := versionLine.FindStringSubmatch(text)
	if found == nil {
		return fault.New(fault.Host, install, "%s is not Firecracker: it says %.80q", p.Path, text)
	}
	p.Version = found[1] + "." + found[2] + found[3] + found[4]
	major, _ := strconv.Atoi(found[1])
	minor, _ := strconv.Atoi(found[2])
	switch {
	case major > 1:
		return fault.New(fault.Host, install, "%s is version %s: this smolvm knows the API of versions 1", p.Path, p.Version)
	case major < 1 || minor < 10:
		return fault.New(fault.Host, install, "%s is version %s, older than %s", p.Path, p.Version, Oldest)
	}
	return nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fault.New(fault.Host, "", "read %s: %w", path, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fault.New(fault.Host, "", "read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
