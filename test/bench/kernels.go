//go:build linux

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/images"
	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/imagebuild"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/unpack"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
)

// kernel is one that can be booted with the guest agent.
type kernel struct {
	arch, release string
	name          string // of the file, where a kernel has several
	image         string // path
	modules       string // path; empty: it needs none
	commandLine   string
}

// kernels compares ours with the distribution's that stands in for it.
func (b *bench) kernels(ctx context.Context) (string, error) {
	text := "## Kernels\n\nOurs, and the distribution's that stands in for it, in turn.\n\n"
	for _, measure := range []func(context.Context, string) (string, error){b.timeToReady, b.timeToAgent} {
		for _, arch := range imagebuild.Arches {
			part, err := measure(ctx, arch)
			if err != nil {
				return "", err
			}
			text += part + "\n"
		}
	}
	return text, nil
}

// booted is the preset that is booted to compare kernels: for another architecture
// the smallest, since it may have to be built first.
func booted(arch string) string {
	if arch == runtime.GOARCH {
		return "claude-code"
	}
	return "pi"
}

// timeToReady launches real sandboxes that differ in nothing but the kernel.
func (b *bench) timeToReady(ctx context.Context, arch string) (string, error) {
	folder, ok := ownKernelFolder(arch)
	if !ok {
		return fmt.Sprintf("Not measured on %s: SmolVM's own kernel is not in the build cache (make kernel ARCH=%[1]s).\n", arch), nil
	}
	ours, theirs := filepath.Join(b.scratch, "own-kernel-"+arch), filepath.Join(b.scratch, "stand-in-"+arch)
	if err := b.publishKernel(ctx, ours, arch, "--kernel", folder); err != nil {
		return "", err
	}
	if err := b.publishKernel(ctx, theirs, arch); err != nil {
		return "", err
	}
	var times [2]series
	for range b.rounds + 1 { // the first of each pulls
		for i, folder := range []string{ours, theirs} {
			d, err := b.bootOnce(ctx, arch, filepath.Join(folder, imagebuild.ManifestFile))
			if err != nil {
				return "", err
			}
			times[i] = append(times[i], d)
		}
	}
	own, standIn := times[0][1:], times[1][1:]
	return fmt.Sprintf("QEMU's start to the agent ready for sessions, `smolvm %s start` of a new sandbox, %s:\n\n| | time |\n|---|---|\n| ours | %s |\n| stand-in | %s |\n| ratio | %.2f (%s) |\n",
		booted(arch), arch, own, standIn, ratio(own, standIn), verdict(ratio(own, standIn), 0.5)), nil
}

// publishKernel publishes a preset with one kernel or the other.
func (b *bench) publishKernel(ctx context.Context, folder, arch string, args ...string) error {
	key := filepath.Join(filepath.Dir(b.images), "dev", "minisign.key")
	all := append([]string{"image", "publish", "--unlocked", "--key", key, "--arch", arch}, args...)
	cmd := exec.CommandContext(ctx, b.smolvm, append(all, folder, booted(arch))...)
	cmd.Env = append(os.Environ(), "SMOLVM_HOME="+b.home, "SMOLVM_BUILD_CACHE="+buildCache())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("publish into %s: %w\n%s", folder, err, out)
	}
	return nil
}

// bootOnce gives the time that the stage "boot" of a new sandbox took.
func (b *bench) bootOnce(ctx context.Context, arch, manifest string) (time.Duration, error) {
	events, err := b.launch(ctx, booted(arch), "start", "--arch", arch, "--backend", "qemu", "-n", "kernel", "--no-mount", "--no-attach",
		"--progress", "json", "--manifest", manifest)
	if err != nil {
		return 0, err
	}
	if _, err := b.must(ctx, "delete", "kernel", "--yes"); err != nil {
		return 0, err
	}
	for _, e := range events {
		if e.Stage == event.Boot {
			return e.Elapsed, nil
		}
	}
	return 0, fmt.Errorf("no sandbox was booted from %s", manifest)
}

// timeToAgent boots nothing but kernel and agent, which any host can do for any
// architecture, and says how large the published files are.
func (b *bench) timeToAgent(ctx context.Context, arch string) (string, error) {
	var found []kernel
	var missing []string
	own, ok := ownKernels(arch)
	if ok {
		found = append(found, own...)
	} else {
		missing = append(missing, fmt.Sprintf("ours (make kernel ARCH=%s)", arch))
	}
	standIn, ok := standInKernel(arch)
	if ok {
		found = append(found, standIn)
	} else {
		missing = append(missing, "the stand-in (image build with it)")
	}
	var text strings.Builder
	fmt.Fprintf(&text, "QEMU's start to the agent's link, without disks, %s:\n\n| kernel | image | image, packed | modules | time |\n|---|---|---|---|---|\n", arch)
	times := make([]series, len(found))
	for range b.rounds {
		for i, k := range found {
			d, err := b.probe(ctx, k)
			if err != nil {
				return "", fmt.Errorf("boot %s: %w", k.release, err)
			}
			times[i] = append(times[i], d)
		}
	}
	for i, k := range found {
		row, err := k.row(ctx, times[i])
		if err != nil {
			return "", err
		}
		text.WriteString(row)
	}
	if len(missing) == 0 {
		fmt.Fprintf(&text, "| ratio | | | | %.2f |\n", ratio(times[0], times[len(times)-1]))
	}
	if ok {
		text.WriteString(besides(arch))
	}
	if len(missing) > 0 {
		fmt.Fprintf(&text, "\nNot in the build cache: %s.\n", strings.Join(missing, ", "))
	}
	return text.String(), nil
}

// probe boots a kernel with the agent until the agent has opened its link.
func (b *bench) probe(ctx context.Context, k kernel) (time.Duration, error) {
	agent, err := embedded.Agent(k.arch)
	if err != nil {
		return 0, err
	}
	initrd := filepath.Join(b.scratch, "kernel.cpio")
	if err := disk.Initrd(initrd, agent, k.modules, nil); err != nil {
		return 0, err
	}
	defer os.Remove(initrd)
	driver := qemu.New(process.New(process.Options{Environ: os.Environ()}),
		qemu.Host{OS: runtime.GOOS, Arch: runtime.GOARCH, TSCKHz: host.Probe().TSCKHz})
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return timed(func() error {
		return driver.Probe(ctx, vmm.Spec{
			Name: "kernel", Arch: k.arch, Accel: vmm.TCG, MemoryMiB: 1024, Kernel: k.image, Initrd: initrd,
			CommandLine: k.commandLine, RunDir: b.scratch, Console: io.Discard,
		})
	})
}

// row is the kernel's line in the table.
func (k kernel) row(ctx context.Context, times series) (string, error) {
	plain, packed, err := sizes(ctx, k.image)
	if err != nil {
		return "", err
	}
	modules := "none"
	if k.modules != "" {
		_, packed, err := sizes(ctx, k.modules)
		if err != nil {
			return "", err
		}
		modules = mib(packed)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", strings.TrimSpace(k.release+" "+k.name), mib(plain), mib(packed), modules, times), nil
}

// sizes are a file's own and that of its archive, made as a published one is.
func sizes(ctx context.Context, path string) (plain, packed int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	_, archive, _, err := unpack.Compress(ctx, f, info.Size(), io.Discard)
	return info.Size(), archive.Size, err
}

// ownKernelFolder asks kernel/build for a result that is there.
func ownKernelFolder(arch string) (string, bool) {
	out, err := exec.Command("kernel/build", "--find", arch).Output()
	return strings.TrimSpace(string(out)), err == nil
}

// ownFiles are the forms of our own kernel that boot; the first is published.
var ownFiles = map[string][]string{"amd64": {"vmlinux", "bzImage"}, "arm64": {"Image"}}

// ownKernels are our own kernel in each of its forms.
func ownKernels(arch string) ([]kernel, bool) {
	folder, ok := ownKernelFolder(arch)
	if !ok {
		return nil, false
	}
	base, err := imagebuild.ReadBase(images.Files())
	release, failed := os.ReadFile(filepath.Join(folder, "release"))
	var forms []kernel
	for _, name := range ownFiles[arch] {
		forms = append(forms, kernel{
			arch: arch, release: strings.TrimSpace(string(release)), name: name, image: filepath.Join(folder, name),
			commandLine: base.Kernel.OwnCommandLine,
		})
	}
	return forms, cmp.Or(err, failed) == nil
}

// besides says how large the kernel's files are that nothing boots.
func besides(arch string) string {
	folder, _ := ownKernelFolder(arch)
	var sizes []string
	for _, name := range []string{"System.map", "config"} {
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil {
			sizes = append(sizes, fmt.Sprintf("`%s` %.2f MiB", name, float64(info.Size())/(1<<20)))
		}
	}
	return "\nBeside it: " + strings.Join(sizes, ", ") + ".\n"
}

// standInKernel is the newest kernel of a distribution in the build cache.
func standInKernel(arch string) (kernel, bool) {
	base, err := imagebuild.ReadBase(images.Files())
	if err != nil {
		return kernel{}, false
	}
	paths, _ := filepath.Glob(filepath.Join(buildCache(), "kernel", "*", "record.json")) // the pattern is good
	var found []imagebuild.Record
	folders := map[string]string{}
	for _, path := range paths {
		var r imagebuild.Record
		raw, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(raw, &r) != nil || r.Arch != arch || r.Source != "" {
			continue
		}
		found, folders[r.Key] = append(found, r), filepath.Dir(path)
	}
	if len(found) == 0 {
		return kernel{}, false
	}
	newest := slices.MaxFunc(found, func(a, b imagebuild.Record) int { return a.Built.Compare(b.Built) })
	folder := folders[newest.Key]
	return kernel{
		arch: arch, release: newest.Version, image: filepath.Join(folder, "kernel"), modules: filepath.Join(folder, "modules"),
		commandLine: base.Kernel.CommandLine,
	}, true
}

// buildCache is where make keeps what is built.
func buildCache() string {
	return cmp.Or(os.Getenv("SMOLVM_BUILD_CACHE"), filepath.Join(os.Getenv("HOME"), ".cache", "smolvm-build"))
}
