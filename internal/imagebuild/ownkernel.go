package imagebuild

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
)

// ownKernelFiles are the kernel images that kernel/build leaves, by architecture:
// on amd64 the ELF file that Firecracker and QEMU enter by its PVH note.
var ownKernelFiles = map[string]string{"amd64": "vmlinux", "arm64": "Image"}

// ownRelease is what uname -r of our own kernel looks like. The kernel's own limit
// is 64 bytes.
var ownRelease = regexp.MustCompile(`^[0-9]{1,3}\.[0-9]{1,4}[A-Za-z0-9._+~-]{0,48}$`)

// maxSourceText bounds the text that says what a kernel was built from, in bytes.
const maxSourceText = 4096

// ownKernel is SmolVM's kernel as kernel/build left it in a folder.
type ownKernel struct {
	image   string // path
	release string // uname -r
	input   Input  // the image
	source  Input  // what it was built from
	text    string // source.txt: that, with the tools
}

// readOwnKernel looks at the folder and reads the image for its digest.
func readOwnKernel(dir, arch string) (ownKernel, error) {
	k := ownKernel{image: filepath.Join(dir, ownKernelFiles[arch])}
	err := k.read(dir, arch)
	switch {
	case err == nil:
		return k, nil
	case errors.Is(err, fs.ErrNotExist):
		return k, fault.New(fault.NotFound, "Build it with `make kernel`, or leave --kernel out for the distribution's.",
			"use the kernel in %s: it is not one that kernel/build left for %s: %w", dir, arch, err)
	}
	return k, fault.New(fault.Usage, "Build it again with `make kernel`.", "use the kernel in %s: %w", dir, err)
}

func (k *ownKernel) read(dir, arch string) error {
	if err := checkOwnImage(k.image, arch); err != nil {
		return err
	}
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return err
	}
	k.release = string(bytes.TrimSpace(release))
	if !ownRelease.MatchString(k.release) {
		return fmt.Errorf("its release is %.80q", k.release)
	}
	source, err := os.ReadFile(filepath.Join(dir, "source.txt"))
	if err != nil {
		return err
	}
	if k.source, err = parseSource(string(source)); err != nil {
		return err
	}
	k.text, k.source.Version = string(source), k.release
	k.input, err = input("kernel", k.release, k.image)
	return err
}

// parseSource reads what kernel/build says of its source: a line in words, its
// digest, the tools.
func parseSource(text string) (Input, error) {
	words, rest, _ := strings.Cut(text, "\n")
	digest, _, _ := strings.Cut(rest, "\n")
	in := Input{Name: words, SHA256: strings.TrimPrefix(digest, "sha256 ")}
	if words == "" || len(text) > maxSourceText || !sha256Hex(in.SHA256) {
		return in, errors.New("source.txt does not say what it was built from, with a SHA-256")
	}
	return in, nil
}

// checkOwnImage refuses a file that no VMM could enter: another architecture's, or
// one that was cut short.
func checkOwnImage(path, arch string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if arch == "arm64" {
		return checkArmImage(f)
	}
	return checkPVH(f)
}

// checkArmImage wants the header of an arm64 Image, from the kernel's
// Documentation/arch/arm64/booting.rst: "ARM\x64" at 56.
func checkArmImage(r io.ReaderAt) error {
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 56); err != nil || string(magic[:]) != "ARM\x64" {
		return errors.New("it is no Image of an arm64 kernel")
	}
	return nil
}

// pvhEntry is the type of the ELF note that says where a virtual machine enters
// the kernel, of the owner "Xen".
const pvhEntry = 18

func checkPVH(r io.ReaderAt) error {
	file, err := elf.NewFile(r)
	if err != nil || file.Machine != elf.EM_X86_64 {
		return errors.New("it is no ELF file of an x86-64 kernel")
	}
	for _, part := range file.Progs {
		if part.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(part.Open(), 1<<20))
		if err != nil {
			return fmt.Errorf("read its notes: %w", err)
		}
		if hasNote(notes, "Xen\x00", pvhEntry) {
			return nil
		}
	}
	return errors.New("it has no PVH note: no VMM can enter it")
}

// hasNote looks through a sequence of ELF notes: the sizes of name and content,
// a type, then both, each padded to four bytes.
func hasNote(notes []byte, owner string, kind uint32) bool {
	for len(notes) >= 12 {
		name, size := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:])
		end := 12 + (uint64(name)+3)&^3 + (uint64(size)+3)&^3
		if end > uint64(len(notes)) {
			return false
		}
		if binary.LittleEndian.Uint32(notes[8:]) == kind && string(notes[12:12+name]) == owner {
			return true
		}
		notes = notes[end:]
	}
	return false
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
	rec.Version, rec.Source, rec.Inputs = k.release, k.text, []Input{k.source}
	if err := writeRecord(work, rec); err != nil {
		return err
	}
	return b.cache.commit(work, kindKernel, plan.Kernel.Key)
}
