package firecracker

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/conformance"
)

// testFolder names a folder with what the tests on a real Firecracker need:
// firecracker, of the digest below, and vmlinux, arguments and cpu-config.json of a
// kernel that KVM runs on this computer (docs/tests.md says where they are from).
const testFolder = "SMOLVM_TEST_FIRECRACKER"

// pinned is the SHA-256 of the Firecracker that the tests run: 1.12.1.
const pinned = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == cage.Word {
		os.Exit(cage.Stage(os.Stderr))
	}
	os.Exit(m.Run())
}

// TestConformance boots a real Firecracker, several times for 20 to 35 s each where
// KVM interprets the kernel.
func TestConformance(t *testing.T) {
	driver, kernel := realDriver(t)
	conformance.Run(t, conformance.Setup{
		Driver: driver, Arch: "amd64", Accel: vmm.KVM, Kernel: kernel, Initrd: testInitrd(t),
		Boot: 10 * time.Minute, Process: true, Left: children, CPUs: 1, Bulk: 256 << 10,
		Differ: true, Written: written,
	})
}

// written is how much Firecracker has written so far, as the kernel counts it.
func written(t *testing.T, m vmm.Machine) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", m.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "wchar: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no count of what was written in %q", text)
	return 0
}

// realDriver drives the pinned Firecracker, or skips and says what is missing.
func realDriver(t testing.TB) (*Driver, string) {
	t.Helper()
	dir := os.Getenv(testFolder)
	if dir == "" {
		t.Skipf("needs a real Firecracker and a kernel for it: set %s", testFolder)
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	_ = kvm.Close()
	binary := filepath.Join(dir, "firecracker")
	if got, err := digest(binary); err != nil || got != pinned {
		t.Skipf("%s is not the pinned Firecracker: %s, %v", binary, got, err)
	}
	cpu, err := os.ReadFile(filepath.Join(dir, "cpu-config.json"))
	if err != nil {
		t.Skip(err)
	}
	arguments, err := os.ReadFile(filepath.Join(dir, "arguments"))
	if err != nil {
		t.Skip(err)
	}
	runner := testRunner(t, binary)
	if err := cage.Try(t.Context(), runner); err != nil {
		t.Skip(err)
	}
	return New(Options{
		Runner: runner, Random: rand.Reader, CPU: json.RawMessage(cpu), Arguments: strings.TrimSpace(string(arguments)),
	}), filepath.Join(dir, "vmlinux")
}

// testRunner finds a Firecracker at binary, and this test as the stage of cages.
func testRunner(t testing.TB, binary string) *process.Runner {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return process.New(process.Options{
		Environ: os.Environ(), Self: self, Places: map[process.Tool]string{process.Firecracker: binary},
	})
}

// testInitrd is an initramfs with the suite's guest.
func testInitrd(t *testing.T) string {
	t.Helper()
	program := build(t, "github.com/smolvm/smolvm/internal/vmm/conformance/init")
	image, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	initrd := filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(initrd, initramfs(image), 0o600); err != nil {
		t.Fatal(err)
	}
	return initrd
}

// build makes a static program of a package.
func build(t *testing.T, pkg string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return program
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
