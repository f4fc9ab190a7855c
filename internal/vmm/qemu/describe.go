package qemu

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// Oldest is the first QEMU that has all that is asked of it: the stream netdev
// came with 7.2 (QEMU's changelog of 7.2, section Network).
const Oldest = "7.2"

// Program is what a QEMU says about itself.
type Program struct {
	Path         string
	Version      string // such as 7.2.22
	Accelerators []string
	Machines     []string
}

// versionLine is the first line of --version.
var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)(\.\d+)?`)

// Describe asks the QEMU for guests of an architecture what it is. A program
// that cannot run here, is too old, or lacks the machine or emulation that
// sandboxes use is a Host fault.
func (d *Driver) Describe(ctx context.Context, arch string) (Program, error) {
	tool := toolFor(arch)
	p := Program{}
	var err error
	if p.Path, err = d.runner.Find(tool); err != nil {
		return p, err
	}
	text, err := d.ask(ctx, tool, "--version")
	if err != nil {
		return p, refusal(p.Path, err)
	}
	if err := p.setVersion(text); err != nil {
		return p, err
	}
	if text, err = d.ask(ctx, tool, "-accel", "help"); err != nil {
		return p, refusal(p.Path, err)
	}
	p.Accelerators = words(text)
	if text, err = d.ask(ctx, tool, "-machine", "help"); err != nil {
		return p, refusal(p.Path, err)
	}
	p.Machines = words(text)
	return p, p.lacks(arch)
}

// toolFor is the program that runs guests of an architecture.
func toolFor(arch string) process.Tool {
	if arch == "arm64" {
		return process.QEMUArm
	}
	return process.QEMUx86
}

func (d *Driver) ask(ctx context.Context, tool process.Tool, args ...string) (string, error) {
	out, err := d.runner.Answer(ctx, tool, args...)
	return string(out), err
}

// refusal says why a program that is there does not answer.
func refusal(path string, err error) error {
	if errors.Is(err, syscall.ENOEXEC) {
		return fault.New(fault.Host, "Install the QEMU of this computer's own architecture.",
			"run %s: it is a program for another architecture", path)
	}
	return fault.New(fault.Host, "Install QEMU again, or take the broken one out of PATH.", "ask %s what it is: %w", path, err)
}

func (p *Program) setVersion(text string) error {
	found := versionLine.FindStringSubmatch(text)
	if found == nil {
		return fault.New(fault.Host, "Take it out of PATH, or install QEMU.", "%s is not QEMU: it says %.80q", p.Path, text)
	}
	p.Version = found[1] + "." + found[2] + found[3]
	major, _ := strconv.Atoi(found[1])
	minor, _ := strconv.Atoi(found[2])
	if major < 7 || major == 7 && minor < 2 {
		return fault.New(fault.Host, "Install QEMU "+Oldest+" or newer (Debian 12 and Ubuntu 24.04 have it).",
			"%s is version %s: it lacks what %s brought, network devices on a Unix socket (netdev stream)", p.Path, p.Version, Oldest)
	}
	return nil
}

// lacks refuses a program that was built without what sandboxes use.
func (p *Program) lacks(arch string) error {
	wanted := map[string]string{"amd64": "microvm", "arm64": "virt"}[arch]
	if !slices.Contains(p.Machines, wanted) {
		return fault.New(fault.Host, "Install a QEMU with all of its machines.", "%s has no machine %q", p.Path, wanted)
	}
	if !slices.Contains(p.Accelerators, "tcg") && !slices.Contains(p.Accelerators, "kvm") {
		return fault.New(fault.Host, "Install a QEMU with tcg or kvm.", "%s can neither emulate nor accelerate", p.Path)
	}
	return nil
}

// words are the first words of the lines of a list that QEMU prints, without
// the heading.
func words(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasSuffix(strings.TrimSpace(line), ":") {
			all = append(all, fields[0])
		}
	}
	return all
}

// String is the program in a few words.
func (p Program) String() string { return fmt.Sprintf("QEMU %s (%s)", p.Version, p.Path) }
