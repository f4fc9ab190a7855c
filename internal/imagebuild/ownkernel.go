package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// ownKernelFiles are the kernel images that kernel/build leaves, by architecture:
// on amd64 the ELF file that Firecracker and QEMU's microvm enter directly.
var ownKernelFiles = map[string]string{"amd64": "vmlinux", "arm64": "Image"}

// maxRelease is the longest kernel release in bytes (the kernel's own limit is 64).
const maxRelease = 64

// ownKernel is SmolVM's kernel as kernel/build left it in a folder.
type ownKernel struct {
	image   string // path
	release string // uname -r
	input   Input
	source  string // what it was built from
}

// readOwnKernel looks at the folder and reads the image for its digest.
func readOwnKernel(dir, arch string) (ownKernel, error) {
	k := ownKernel{image: filepath.Join(dir, ownKernelFiles[arch])}
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err == nil {
		k.release = string(bytes.TrimSpace(release))
		k.input, err = input("kernel", k.release, k.image)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return k, fault.New(fault.NotFound, "Build it with `make kernel`, or leave --kernel out for the distribution's.",
			"use the kernel in %s: it is not one that kernel/build left for %s: %w", dir, arch, err)
	}
	if err != nil {
		return k, fmt.Errorf("use the kernel in %s: %w", dir, err)
	}
	if k.release == "" || len(k.release) > maxRelease || strings.ContainsAny(k.release, " \t\n") {
		return k, fault.New(fault.Usage, "Build it again with `make kernel`.", "use the kernel in %s: its release is %.80q", dir, k.release)
	}
	source, err := os.ReadFile(filepath.Join(dir, "source.txt"))
	k.source = string(source)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("use the kernel in %s: %w", dir, err)
	}
	return k, nil
}

// takeOwnKernel makes the kernel's step of a folder that kernel/build left.
func (b *Builder) takeOwnKernel(ctx context.Context, plan Plan) error {
	k, err := readOwnKernel(plan.kernelDir, plan.Arch)
	if err != nil {
		return err
	}
	work, err := b.cache.work(kindKernel)
	if err != nil {
		return err
	}
	image, err := os.ReadFile(k.image)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(work, "kernel"), image, 0o644); err != nil {
		return err
	}
	rec := b.record(ctx, plan.Kernel, plan.Arch)
	rec.Version, rec.Source, rec.Inputs = k.release, k.source, []Input{k.input}
	if err := writeRecord(work, rec); err != nil {
		return err
	}
	return b.cache.commit(work, kindKernel, plan.Kernel.Key)
}
