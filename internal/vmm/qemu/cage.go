package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Places in the cage of what a machine is given; QEMU's own files are where they are
// outside.
const (
	kernelAt = "/kernel"
	initrdAt = "/initrd"
	drivesAt = "/drives"
)

// Limits of QEMU's process beyond its guest's memory.
const (
	// overhead is address space in bytes: 1 GiB of translated code, 64 MiB that the
	// allocator reserves for each thread, the threads' stacks, libraries.
	overhead   = 8 << 30
	openFiles  = 1024
	ownThreads = 96 // beside one for each processor: 64 of them may read and write disks
	oomScore   = 500
	mebibyte   = 1 << 20
)

// What QEMU needs of its control group beyond its guest's memory and processors.
const (
	// ownMemory is in bytes: QEMU's own (30 to 60 MiB), what 64 threads and the kernel
	// keep for it, and a disk cache that leaves it room to write.
	ownMemory = 768 << 20
	// emulatorMemory comes on top under emulation: translated code, as much as QEMU keeps
	// by default.
	emulatorMemory = 1 << 30
	// ownProcessors are for the threads that are not the guest's processors.
	ownProcessors = 1
)

var _ vmm.Estimator = (*Driver)(nil)

// Needs are what QEMU takes to run a spec.
func (d *Driver) Needs(s vmm.Spec) vmm.Needs {
	own := vmm.Needs{Memory: ownMemory, Processes: ownThreads, CPUs: ownProcessors}
	if s.Accel == vmm.TCG {
		own.Memory += emulatorMemory
	}
	return s.Needs(own)
}

// confinement is what one QEMU's cage shows of this system besides the machine's files.
type confinement struct {
	binds []cage.Bind
	data  []string // folders with firmware
}

// confine finds out what QEMU needs of this system to run in a cage.
func (d *Driver) confine(ctx context.Context, tool process.Tool) (*confinement, error) {
	binary, err := d.runner.Find(tool)
	if err != nil {
		return nil, err
	}
	libraries, err := process.Libraries(ctx, binary)
	if err != nil {
		return nil, err
	}
	c := &confinement{binds: []cage.Bind{{From: binary, To: binary, Program: true}, {From: "/dev/null", To: "/dev/null", Device: true}}}
	for _, path := range unique(libraries) {
		c.binds = append(c.binds, cage.Bind{From: path, To: path, Program: true})
	}
	if there(loaderCache) {
		c.binds = append(c.binds, cage.Bind{From: loaderCache, To: loaderCache})
	}
	installed := binary
	if target, err := filepath.EvalSymlinks(binary); err == nil {
		installed = target
	}
	return c, c.addFolders(filepath.Dir(filepath.Dir(installed)))
}

// loaderCache tells the loader where libraries are that are in none of its own folders.
const loaderCache = "/etc/ld.so.cache"

// addFolders shows the folders of firmware, and of parts that QEMU loads when it needs
// them, as distributions lay them out below the folder that bin is in.
func (c *confinement) addFolders(prefix string) error {
	for _, name := range []string{"qemu", "qemu-kvm", "seabios", "seavgabios"} {
		if path := filepath.Join(prefix, "share", name); there(path) {
			c.binds = append(c.binds, cage.Bind{From: path, To: path})
			c.data = append(c.data, path)
		}
	}
	for _, pattern := range []string{"lib*/qemu", "lib/*-linux-*/qemu", "lib*/qemu-kvm"} {
		paths, err := filepath.Glob(filepath.Join(prefix, pattern))
		if err != nil {
			return fmt.Errorf("look for parts of QEMU: %w", err)
		}
		for _, path := range paths {
			c.binds = append(c.binds, cage.Bind{From: path, To: path, Program: true})
		}
	}
	return nil
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// unique drops what is the same place twice.
func unique(paths []string) []string {
	var all []string
	for _, path := range paths {
		if path = filepath.Clean(path); !slices.Contains(all, path) {
			all = append(all, path)
		}
	}
	return all
}

// around is the cage of a machine, built over an empty folder.
func (p plan) around(root string) cage.Plan {
	s, binds := p.spec, slices.Clone(p.cage.binds)
	show := func(from, to string, writable bool) string {
		binds = append(binds, cage.Bind{From: from, To: to, Writable: writable})
		return to
	}
	s.Kernel, s.Initrd = show(s.Kernel, kernelAt, false), show(s.Initrd, initrdAt, false)
	s.Drives = slices.Clone(s.Drives)
	for i, d := range s.Drives {
		s.Drives[i].Path = show(d.Path, drivesAt+"/"+d.ID, !d.ReadOnly)
	}
	if s.Accel == vmm.KVM {
		binds = append(binds, cage.Bind{From: "/dev/kvm", To: "/dev/kvm", Device: true})
	}
	limits := cage.Limits{
		Memory: uint64(s.MemoryMiB)*mebibyte + overhead, Files: openFiles, Processes: uint64(s.CPUs) + ownThreads,
	}
	p.spec, p.firstFD = s, cage.FirstFile
	args := p.arguments()
	for _, folder := range p.cage.data {
		args = append(args, "-L", folder) // it cannot see where its program is
	}
	return cage.Plan{Root: root, Binds: binds, Program: binds[0].To, Args: args, Limits: limits, OOMScore: oomScore}
}

// command prepares QEMU with its end of the machine's sockets, in a cage where the
// plan has one. release lets go of what the start alone needs; the folder that the
// cage was built over is no longer needed once QEMU answers.
func (d *Driver) command(p plan, sockets []*os.File) (cmd *process.Cmd, release func(), err error) {
	ctx := context.Background() // a start's ends the start, not the machine
	if p.cage == nil {
		cmd := d.runner.Command(ctx, p.tool, p.arguments()...)
		cmd.Dir, cmd.ExtraFiles = "/", sockets
		return cmd, func() {}, nil
	}
	root, err := os.MkdirTemp(p.spec.RunDir, "cage-")
	if err != nil {
		return nil, nil, fault.New(fault.Storage, "", "make a folder for a cage: %w", err)
	}
	if cmd, err = cage.Command(ctx, d.runner, p.around(root), sockets...); err != nil {
		return nil, nil, &uncagedError{errors.Join(err, os.Remove(root))}
	}
	plan := cmd.ExtraFiles[0]
	return cmd, func() { _, _ = plan.Close(), os.Remove(root) }, nil
}

// uncagedError says that QEMU cannot run in a cage here.
type uncagedError struct{ why error }

func (e *uncagedError) Error() string { return "run QEMU in a cage: " + e.why.Error() }
func (e *uncagedError) Unwrap() error { return e.why }

// blame tells an end of QEMU that its cage is the cause of: it could not be built, or
// lacks something that this system's QEMU wants. Before its guest has begun, all that
// QEMU says is its own.
func (d *Driver) blame(exit error, said string) error {
	if cage.Failed(exit, said) {
		return &uncagedError{d.forbidden(errors.New(said))}
	}
	for _, sign := range []string{"cage: run ", "shared libraries", "romfile", "ould not load", "ould not open", "accelerator", "ermission denied"} {
		if strings.Contains(said, sign) {
			return &uncagedError{errors.New(said)}
		}
	}
	return nil
}

func (d *Driver) forbidden(err error) error {
	return cage.Forbidden(os.DirFS("/"), d.runner.SelfPath(), err)
}

var _ vmm.Confined = (*machine)(nil)

// Confinement tells whether QEMU runs in a cage, and else why not.
func (m *machine) Confinement() (caged bool, why error) {
	return m.plan.cage != nil, m.plan.uncaged
}
