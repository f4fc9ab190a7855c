// Package firecracker drives Firecracker: it decides a machine's devices and boot
// arguments, starts Firecracker in a cage without root, configures it over its API,
// and turns vsock connections of the guest into the sessions of the guest link, and
// the frames of its tap into those of a vmm.Card.
//
// Inputs are a vmm.Spec and a Firecracker of version 1.10 or later; the output is a
// running machine. All paths that Firecracker is given are the same for every
// machine, as the cage shows each its own files there. In Spec.RunDir a folder vm
// holds sockets and pipes while the machine lives. After a crash of this process
// the kernel ends Firecracker; that folder stays for the caller to remove.
package firecracker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Options are what a driver needs.
type Options struct {
	Runner *process.Runner
	Random io.Reader // for tokens
	// CPU is a custom CPU template, for processors that lack what Firecracker would
	// show; nil: none.
	CPU json.RawMessage
	// Arguments are added to the kernel's, for kernels with needs of their own.
	Arguments string
}

// Driver starts machines under Firecracker.
type Driver struct {
	runner  *process.Runner
	options Options
}

var _ vmm.Driver = (*Driver)(nil)

// New makes a driver.
func New(o Options) *Driver { return &Driver{runner: o.Runner, options: o} }

// Binary is the path of Firecracker, or a Host fault that says how to get it.
func (d *Driver) Binary() (string, error) { return d.runner.Find(process.Firecracker) }

// Start starts Firecracker and returns when it runs the guest.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	token, err := d.draw()
	if err != nil {
		return nil, fmt.Errorf("start virtual machine %s: make a token: %w", spec.Name, err)
	}
	return d.start(ctx, spec, "", keptMachine{Token: token})
}

// draw draws what nobody can guess and nothing else is called.
func (d *Driver) draw() (string, error) {
	raw := make([]byte, tokenBytes)
	if _, err := io.ReadFull(d.options.Random, raw); err != nil {
		return "", err
	}
	return hex.EncodeToString(raw), nil
}

// start starts a machine anew, with a token, or from the snapshot in a folder.
func (d *Driver) start(ctx context.Context, spec vmm.Spec, from string, k keptMachine) (vmm.Machine, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	binary, err := d.Binary()
	if err != nil {
		return nil, err
	}
	if err := present(spec); err != nil {
		return nil, err
	}
	m, err := d.newMachine(spec, binary, from, k)
	if err != nil {
		return nil, fmt.Errorf("start virtual machine %s: %w", spec.Name, err)
	}
	if err := m.begin(ctx); err != nil {
		m.abandon()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("start virtual machine %s: %w", spec.Name, ctx.Err())
		}
		return nil, fmt.Errorf("start virtual machine %s: %w", spec.Name, err)
	}
	return m, nil
}

// idPattern is what a drive's ID may be.
var idPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)

// maxCPUs is what Firecracker gives one machine.
const maxCPUs = 32

// Processors refuses a number of processors that Firecracker does not give.
func Processors(n int) error {
	if n < 1 || n > maxCPUs || n > 1 && n%2 == 1 {
		return fmt.Errorf("%d processors: Firecracker gives 1 or an even number up to %d", n, maxCPUs)
	}
	return nil
}

// FewerProcessors is the largest number that Firecracker gives, up to n.
func FewerProcessors(n int) int {
	if n > 1 && n%2 == 1 {
		n--
	}
	return min(n, maxCPUs)
}

// check refuses what Firecracker cannot do, before anything is started.
func check(spec vmm.Spec) error {
	refuse := func(format string, args ...any) error {
		return fault.New(fault.Usage, "", "start virtual machine %s: %w", spec.Name, fmt.Errorf(format, args...))
	}
	seen := map[string]bool{}
	for _, d := range spec.Drives {
		if !idPattern.MatchString(d.ID) || seen[d.ID] {
			return refuse("drive name %q is taken or not of 1 to 20 letters and digits", d.ID)
		}
		seen[d.ID] = true
	}
	switch {
	case spec.Accel != vmm.KVM:
		return refuse("Firecracker cannot run a machine without KVM (%s was asked for)", spec.Accel)
	case Processors(spec.CPUs) != nil:
		return refuse("%w", Processors(spec.CPUs))
	case spec.MemoryMiB < 64:
		return refuse("%d MiB of memory", spec.MemoryMiB)
	case spec.Console == nil:
		return refuse("nowhere to write the console")
	}
	return nil
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

// Places in the cage. They are in every snapshot, so they never change.
const (
	programAt = "/firecracker"
	kernelAt  = "/kernel"
	initrdAt  = "/initrd"
	drivesAt  = "/drives"
	runAt     = "/run" // the folder vm of the run folder
)

// Names in the folder vm.
const (
	apiName     = "api"
	vsockName   = "vsock"
	logName     = "log"
	metricsName = "metrics"
)

// Limits of Firecracker's process beyond its guest's memory.
const (
	overhead     = 512 << 20 // bytes of address space: program, threads' stacks, a snapshot's state
	openFiles    = 1024      // a vsock connection each, beside a dozen
	ownThreads   = 8         // beside one for each processor
	oomScore     = 500       // it ends before the user's other programs when memory runs out
	devicesAlign = 1 << 20   // MiB to bytes
)

// plan is the cage and the command line of Firecracker.
func (m *machine) cagePlan() cage.Plan {
	s := m.spec
	binds := []cage.Bind{
		{From: m.binary, To: programAt, Program: true},
		{From: s.Kernel, To: kernelAt},
		{From: s.Initrd, To: initrdAt},
		{From: m.dir, To: runAt, Writable: true},
		{From: "/dev/kvm", To: "/dev/kvm", Device: true},
		{From: "/dev/urandom", To: "/dev/urandom", Device: true},
	}
	for _, d := range s.Drives {
		binds = append(binds, cage.Bind{From: d.Path, To: drivesAt + "/" + d.ID, Writable: !d.ReadOnly})
	}
	if m.card != nil {
		binds = append(binds, cage.Bind{From: cage.TapDevice, To: cage.TapDevice, Device: true})
	}
	binds = append(binds, m.snapshotBind()...)
	return cage.Plan{
		Root: m.root, Binds: binds, Program: programAt, Tap: m.tap(),
		Args: []string{
			"--id", "smolvm", "--api-sock", runAt + "/" + apiName, "--level", "Info",
			"--log-path", runAt + "/" + logName, "--metrics-path", runAt + "/" + metricsName,
		},
		Limits: cage.Limits{
			Memory: uint64(s.MemoryMiB)*devicesAlign + overhead, Files: openFiles,
			Processes: uint64(s.CPUs) + ownThreads,
		},
		OOMScore: oomScore,
	}
}

// BootArguments are the kernel's options on x86, each with its reason; `make bench`
// measures what each of them saves.
// console: the serial port, which is the only console. reboot=t: a reset is a triple
// fault, at which Firecracker ends at once; there is no keyboard controller to reset
// by. panic=-1: a panic resets at once, so the host sees the end and its text.
// pci=off: there is no bus to search.
// Nothing has to be said of the keyboard's controller or of self-tests of algorithms:
// our kernel has no driver for the one and no manager of the others. ACPI stays on: by
// it a restored guest learns its generation (VMGENID). What the manifest adds keeps the
// kernel quiet.
const BootArguments = "console=ttyS0 reboot=t panic=-1 pci=off"

// bootArgumentsARM differ in the reset: it is a call that Firecracker understands.
const bootArgumentsARM = "console=ttyS0 reboot=k panic=-1 pci=off"

func (m *machine) commandLine() string {
	own := BootArguments
	if m.spec.Arch == "arm64" {
		own = bootArgumentsARM
	}
	return strings.Join(strings.Fields(strings.Join([]string{
		own, m.driver.options.Arguments, m.spec.CommandLine, tokenOption(m.token),
	}, " ")), " ")
}

// setting is one object of a machine's configuration.
type setting struct {
	path, object string
	body         any
}

// statisticsSeconds is how often Firecracker asks for the balloon's statistics. Without
// them it does not tell the balloon's size either; nothing else of them is read.
const statisticsSeconds = 5

// guestCID is the guest's vsock address; each machine has a device of its own.
const guestCID = 3

// settings are all that is said before the start. Drives are found by their place:
// Firecracker gives them serial numbers of its own.
func (m *machine) settings() []setting {
	s := m.spec
	list := []setting{
		{"/machine-config", "the machine", machineConfig{CPUs: s.CPUs, MemoryMiB: s.MemoryMiB, TrackDirty: s.Track}},
		{"/boot-source", "kernel and initrd", bootSource{Kernel: kernelAt, Initrd: initrdAt, Args: m.commandLine()}},
		{"/vsock", "the guest link", vsockConfig{CID: guestCID, Socket: runAt + "/" + vsockName}},
		{"/entropy", "the random source", entropyConfig{}},
		{"/balloon", "the balloon", balloonConfig{Deflate: true, Interval: statisticsSeconds}},
	}
	if m.card != nil {
		list = append(list, setting{"/network-interfaces/" + cardID, "the network card", networkConfig{ID: cardID, Tap: tapName, MAC: cardMAC}})
	}
	if len(m.driver.options.CPU) > 0 {
		list = append(list, setting{"/cpu-config", "the processor", m.driver.options.CPU})
	}
	for _, d := range s.Drives {
		cache := writeback
		if d.ReadOnly {
			cache = unsafe
		}
		list = append(list, setting{"/drives/" + driveID(d.ID), "drive " + d.ID, driveConfig{
			ID: driveID(d.ID), Path: drivesAt + "/" + d.ID, ReadOnly: d.ReadOnly, Cache: cache,
		}})
	}
	return list
}

// driveID is the name in the API, which knows letters, digits and underscores.
func driveID(id string) string { return strings.ReplaceAll(id, "-", "_") }

// hintFor knows what helps against messages users meet.
func hintFor(said string) string {
	switch {
	case strings.Contains(said, "run "+programAt):
		return "Take Firecracker's official release for this computer's architecture: one program that needs no libraries."
	case strings.Contains(said, "/dev/kvm") || strings.Contains(said, "Error creating KVM object"):
		return "Add yourself to the group that owns /dev/kvm (often kvm), or use --backend qemu."
	case strings.Contains(said, "annot allocate memory"), strings.Contains(said, "ENOMEM"), strings.Contains(said, "os error 12"):
		return "Give the sandbox less memory (--memory), or free some."
	}
	return ""
}

// makeFolder makes the folder vm with the pipes in it.
func makeFolder(runDir string) (dir string, err error) {
	dir = filepath.Join(runDir, "vm")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fault.New(fault.Storage, "", "make the machine's folder: %w", err)
	}
	for _, name := range []string{logName, metricsName} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			return "", errors.Join(fault.New(fault.Storage, "", "make the pipe %s: %w", name, err), os.RemoveAll(dir))
		}
	}
	return dir, nil
}
