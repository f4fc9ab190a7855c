package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance"
)

// kernelVariable names a folder with ARCH/kernel and, for a kernel that needs
// modules, ARCH/modules.cpio as a manifest's kernel row has them.
const kernelVariable = "SMOLVM_TEST_KERNEL"

// TestConformance boots real machines, each kind about 20 s under emulation.
func TestConformance(t *testing.T) {
	host := testHost(t)
	noClock := host
	noClock.TSCKHz = 0
	for _, c := range []struct {
		name, arch string
		host       Host
	}{{"microvm", "amd64", host}, {"q35", "amd64", noClock}, {"virt", "arm64", host}} {
		t.Run(c.name, func(t *testing.T) {
			arch := c.arch
			kernel, initrd := artifacts(t, arch)
			driver := New(testRunner(), c.host)
			if _, err := driver.Binary(arch); err != nil {
				t.Skip(err)
			}
			conformance.Run(t, conformance.Setup{
				Driver: driver, Arch: arch, Accel: vmm.TCG, Kernel: kernel, Initrd: initrd,
				Boot: 90 * time.Second, Process: true, Left: children,
			})
		})
	}
}

// testRunner knows this program, so that machines get cages.
func testRunner() *process.Runner {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return process.New(process.Options{Environ: os.Environ(), Self: self})
}

// testHost measures nothing: bogomips of an x86 Linux is twice its TSC in MHz.
func testHost(t *testing.T) Host {
	t.Helper()
	h := Host{OS: runtime.GOOS, Arch: runtime.GOARCH}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); h.Arch == "amd64" && strings.TrimSpace(key) == "bogomips" {
			mips, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			h.TSCKHz = int64(mips * 500)
		}
	}
	return h
}

// artifacts gives the kernel and an initramfs with the test guest, or skips.
func artifacts(t *testing.T, arch string) (kernel, initrd string) {
	t.Helper()
	dir := os.Getenv(kernelVariable)
	if dir == "" {
		t.Skipf("needs a guest kernel: set %s", kernelVariable)
	}
	kernel = filepath.Join(dir, arch, "kernel")
	if _, err := os.Stat(kernel); err != nil {
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program,
		"github.com/smolvm/smolvm/internal/vmm/conformance/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test guest: %v\n%s", err, out)
	}
	image, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	modules, _ := os.ReadFile(filepath.Join(dir, arch, "modules.cpio")) // a kernel may need none
	initrd = filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(initrd, append(initramfs(image), modules...), 0o600); err != nil {
		t.Fatal(err)
	}
	return kernel, initrd
}

// initramfs is a cpio archive (newc) with a console and one program, /init.
func initramfs(init []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	for _, dir := range []string{"dev", "proc", "sys"} {
		entry(dir, 0o40755, 0, 0, nil)
	}
	entry("dev/console", 0o20600, 5, 1, nil)
	entry("init", 0o100755, 0, 0, init)
	entry("TRAILER!!!", 0, 0, 0, nil)
	b.Write(make([]byte, -b.Len()&511))
	return b.Bytes()
}

// children lists the living child processes of this one.
func children() []string {
	var left []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		pids, _ := os.ReadFile(task)
		for pid := range strings.FieldsSeq(string(pids)) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			left = append(left, pid+" "+string(line[:min(len(line), 40)]))
		}
	}
	return left
}
