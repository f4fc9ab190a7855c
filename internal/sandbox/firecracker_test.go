package sandbox_test

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/firecracker"
)

// firecrackerVariable names a folder with Firecracker and a kernel that KVM runs on
// this computer (docs/tests.md).
const firecrackerVariable = "SMOLVM_TEST_FIRECRACKER"

// firecrackerDriver is the driver of that folder.
func firecrackerDriver() (vmm.Driver, error) {
	dir := os.Getenv(firecrackerVariable)
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cpu, err := os.ReadFile(filepath.Join(dir, "cpu-config.json"))
	if err != nil {
		return nil, err
	}
	arguments, err := os.ReadFile(filepath.Join(dir, "arguments"))
	if err != nil {
		return nil, err
	}
	return firecracker.New(firecracker.Options{
		Runner: process.New(process.Options{
			Environ: os.Environ(), Self: self,
			Places: map[process.Tool]string{process.Firecracker: filepath.Join(dir, "firecracker")},
		}),
		Random: rand.Reader, CPU: json.RawMessage(cpu), Arguments: strings.TrimSpace(string(arguments)),
	}), nil
}

// TestVMFirecracker runs a sandbox on a real Firecracker: the published base, the
// guest agent, a mount, an orderly stop, and a supervisor that is killed.
func TestVMFirecracker(t *testing.T) {
	image, dir := os.Getenv(imageVariable), os.Getenv(firecrackerVariable)
	if image == "" || dir == "" {
		t.Skipf("%s and %s are not both set: no Firecracker is started", imageVariable, firecrackerVariable)
	}
	if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		t.Skip(err)
	} else {
		_ = kvm.Close()
	}
	b := newBench(t)
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "from-host"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := b.spec("vm")
	spec.VMM, spec.Accel, spec.Arch, spec.CPUs, spec.MemoryMiB, spec.DiskBytes = "firecracker", vmm.KVM, runtime.GOARCH, 1, 512, 1<<30
	spec.Image = record.Image{
		Kernel: filepath.Join(dir, "vmlinux"), CommandLine: "quiet",
		Layers: []record.Layer{{Name: "base", Path: filepath.Join(image, "base.ext4")}},
	}
	spec.Mounts = []record.Mount{{Host: shared, Guest: "/mnt/shared"}}
	// Where KVM interprets the kernel, it does not save what these would use.
	spec.Env = map[string]string{"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F", "GODEBUG": "cpu.all=off"}
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r, err := b.m.Start(t.Context(), "vm", sandbox.StartOptions{Timeout: 4 * time.Minute})
	if err != nil {
		console, _ := os.ReadFile(b.book.Folder("vm").Console())
		t.Fatalf("%v\n%s", err, console)
	}
	t.Logf("ready in %v: %+v", time.Since(begun).Round(time.Second), r.Boot)
	script := "uname -r; id -un; cat /mnt/shared/from-host; echo of the guest >/mnt/shared/from-guest; echo kept >~/kept"
	if out, status := b.exec("vm", "", "sh", "-c", script); status != 0 || !strings.HasPrefix(out, "6.12") || !strings.Contains(out, "agent\nof the host") {
		t.Errorf("%d: %q", status, out)
	}
	if text, err := os.ReadFile(filepath.Join(shared, "from-guest")); string(text) != "of the guest\n" {
		t.Errorf("from the guest: %q, %v", text, err)
	}
	alone(t, r.VMMPid)
	client, err := b.m.Connect(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	begun = time.Now()
	if err := b.m.Stop(t.Context(), "vm", 2*time.Minute); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %v", time.Since(begun).Round(time.Second))
	if r, err := b.book.Read("vm"); err != nil || r.LastError != "" || r.Stopped.IsZero() {
		t.Errorf("after the stop: %+v, %v", r, err)
	}
	if _, err := client.Exec(t.Context(), command("true"), supervise.Streams{}); fault.CodeOf(err) == "" {
		t.Error("a stopped sandbox runs programs")
	}
	if err := syscall.Kill(r.VMMPid, 0); err == nil {
		t.Error("Firecracker outlives its sandbox")
	}
}

// alone checks what the kernel says of the machine monitor's process: no capability,
// no way to any, and namespaces of its own.
func alone(t *testing.T, pid int) {
	t.Helper()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), line) {
			t.Errorf("its status lacks %q:\n%s", line, status)
		}
	}
	for _, kind := range []string{"user", "mnt", "pid", "net", "ipc", "uts"} {
		own, _ := os.Readlink("/proc/self/ns/" + kind)
		if its, err := os.Readlink(filepath.Join(proc, "ns", kind)); err == nil && its == own {
			t.Errorf("it shares the %s namespace", kind)
		}
	}
}
