// Package qemu drives QEMU: it decides machine, processor and devices for the
// host, starts QEMU bound to this process's life, speaks QMP with it, and turns
// a virtio-serial port into the sessions of the guest link.
//
// Inputs are a vmm.Spec and facts about the host; the output is a running
// machine. Nothing is written to disk: QMP and the link are socket pairs QEMU
// inherits, the console is a pipe. After a crash of this process the kernel ends
// QEMU; drives are then in the state of the guest's last flush.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Host is what the driver has to know about this computer.
type Host struct {
	OS     string // runtime.GOOS
	Arch   string // runtime.GOARCH
	TSCKHz int64  // frequency of the time-stamp counter in kHz; 0: unknown
}

// Driver starts machines under QEMU.
type Driver struct {
	runner *process.Runner
	host   Host
}

var _ vmm.Restorer = (*Driver)(nil)

// New makes a driver.
func New(runner *process.Runner, host Host) *Driver {
	return &Driver{runner: runner, host: host}
}

// Binary is the path of the QEMU that runs guests of an architecture, or a Host
// fault that names the package to install.
func (d *Driver) Binary(arch string) (string, error) {
	return d.runner.Find(toolFor(arch))
}

// Start starts QEMU and returns when it has set up the machine and runs it.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	return d.start(ctx, spec, nil)
}

// start starts a machine that boots, or that runs on from a snapshot.
func (d *Driver) start(ctx context.Context, spec vmm.Spec, from *snapshot) (vmm.Machine, error) {
	p, err := newPlan(spec, d.host)
	if err != nil {
		return nil, err
	}
	p.from = from
	if _, err := d.runner.Find(p.tool); err != nil {
		return nil, err
	}
	if err := present(spec); err != nil {
		return nil, err
	}
	if d.host.OS == "linux" {
		p.cage, p.uncaged = d.confine(ctx, p.tool)
	}
	for {
		m, said, err := d.launch(ctx, p)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil || !p.leaveCage(err) && !p.workAround(said) {
			return nil, d.why(ctx, spec.Arch, err)
		}
	}
}

// leaveCage gives up the cage where it is what failed: QEMU without one still has its
// own filter of system calls, and runs on systems that forbid cages.
func (p *plan) leaveCage(failed error) bool {
	var why *uncagedError
	if p.cage == nil || !errors.As(failed, &why) {
		return false
	}
	p.cage, p.uncaged = nil, why
	return true
}

// why prefers what is wrong with this QEMU as such to how a start with it failed.
func (d *Driver) why(ctx context.Context, arch string, failed error) error {
	if _, err := d.Describe(ctx, arch); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w (%w)", err, failed)
	}
	return failed
}

// workAround adapts the plan to what this QEMU said it cannot do; false when
// there is nothing more to try.
func (p *plan) workAround(said string) bool {
	switch {
	case p.sandbox && strings.Contains(said, "sandbox"): // built without seccomp
		p.sandbox = false
		return true
	case p.cpu == "host" && strings.Contains(said, "MSR 0x10a"):
		// Nested KVM that offers IA32_ARCH_CAPABILITIES and refuses to set it.
		p.cpu = "host,arch-capabilities=off"
		return true
	}
	return false
}

// present checks that every file is there and can be opened as it will be.
func present(spec vmm.Spec) error {
	files := []vmm.Drive{{ID: "kernel", Path: spec.Kernel, ReadOnly: true}, {ID: "initrd", Path: spec.Initrd, ReadOnly: true}}
	for _, d := range append(files, spec.Drives...) {
		flag := os.O_RDWR
		if d.ReadOnly {
			flag = os.O_RDONLY
		}
		f, err := os.OpenFile(d.Path, flag|syscall.O_NONBLOCK, 0)
		if err != nil {
			return fault.New(fault.Storage, "", "start virtual machine %s: open %s: %w", spec.Name, d.ID, err)
		}
		_ = f.Close()
	}
	return nil
}

// launch starts QEMU once. On failure nothing of it is left, and said is what
// it wrote to stderr.
func (d *Driver) launch(ctx context.Context, p plan) (m *machine, said string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	m, children, err := newMachine(p)
	if err != nil {
		return nil, "", err
	}
	release, err := d.spawn(m, p, children)
	_ = closeAll(children)
	defer release()
	if err != nil {
		m.hangUp()
		return nil, "", err
	}
	if err := m.begin(ctx); err != nil {
		m.abandon()
		return nil, m.tail.String(), d.explain(ctx, m, p, err)
	}
	return m, "", nil
}

// spawn starts m's QEMU. What release lets go of is needed until it answers.
func (d *Driver) spawn(m *machine, p plan, sockets []*os.File) (release func(), err error) {
	cmd, release, err := d.command(p, sockets)
	if err != nil {
		return func() {}, err
	}
	cmd.Stdout, cmd.Stderr = lossless{p.spec.Console}, m.tail
	process.InGroup(cmd, p.spec.Group)
	m.child, err = process.StartBound(cmd)
	switch {
	case err != nil && p.cage != nil:
		err = &uncagedError{d.forbidden(err)}
	case err != nil:
		err = fault.New(fault.Host, "", "start virtual machine %s: %w", p.spec.Name, err)
	}
	return release, err
}

// explain says why a QEMU that has ended did not come up.
func (d *Driver) explain(ctx context.Context, m *machine, p plan, err error) error {
	said := m.tail.String()
	if ctx.Err() != nil {
		return fmt.Errorf("start virtual machine %s: %w", p.spec.Name, ctx.Err())
	}
	if own := (*fault.Fault)(nil); errors.As(err, &own) { // QEMU is well, a snapshot is not
		return err
	}
	if p.cage != nil {
		if blamed := d.blame(m.child.Wait(), said); blamed != nil {
			return blamed
		}
	}
	return fault.New(fault.Host, hintFor(said), "start virtual machine %s: %s did not come up: %s", p.spec.Name, p.tool, cause(said, err))
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// cause prefers QEMU's own words to the broken connection they led to.
func cause(said string, err error) string {
	if said != "" {
		return said
	}
	return err.Error()
}

// hintFor knows what helps against messages users meet.
func hintFor(said string) string {
	switch {
	case strings.Contains(said, "/dev/kvm") || strings.Contains(said, "Could not access KVM"):
		return "Add yourself to the group that owns /dev/kvm (often kvm), or use emulation."
	case strings.Contains(said, "Failed to get \"write\" lock"), strings.Contains(said, "Failed to get shared"):
		return "Another virtual machine uses the same disk; stop it first."
	case strings.Contains(said, "ermission denied"):
		return "The file's permissions are right, or it would not have come this far: look whether SELinux (ausearch -m avc) " +
			"or AppArmor (journalctl -k --grep DENIED) forbids QEMU the folder."
	case strings.Contains(said, "annot set up guest memory"), strings.Contains(said, "annot allocate memory"):
		return "Give the sandbox less memory (--memory), or free some."
	}
	return ""
}
