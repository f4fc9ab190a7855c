package qemu

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

// childVariable makes the test binary start a machine, say its pid, and wait.
const childVariable = "QEMU_TEST_CHILD"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == cage.Word {
		os.Exit(cage.Stage(os.Stderr))
	}
	if kernel := os.Getenv(childVariable); kernel != "" {
		os.Exit(startAndWait(kernel))
	}
	os.Exit(m.Run())
}

func startAndWait(kernel string) int {
	m, err := New(testRunner(), Host{OS: "linux", Arch: "amd64"}).Start(context.Background(), dull(kernel))
	if err != nil {
		_, _ = io.WriteString(os.Stderr, err.Error())
		return 1
	}
	_, _ = io.WriteString(os.Stdout, strconv.Itoa(m.Pid())+"\n")
	_ = m.Wait()
	return 0
}

// dull is a machine that needs no kernel: its file is an endless loop.
func dull(kernel string) vmm.Spec {
	s := spec("amd64", vmm.TCG)
	s.Kernel, s.Initrd, s.MemoryMiB, s.CPUs = kernel, kernel, 128, 1
	return s
}

// loop is a multiboot image of four bytes' work: hlt; jmp.
func loop(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loop")
	image := make([]byte, 8192)
	header := []uint32{0x1badb002, 0x10000, 0, 0x100000, 0x100000, 0x102000, 0x102000, 0x100020}
	header[2] = -(header[0] + header[1])
	for i, v := range header {
		for b := range 4 {
			image[4*i+b] = byte(v >> (8 * b))
		}
	}
	copy(image[32:], []byte{0xf4, 0xeb, 0xfd})
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func needQEMU(t *testing.T) *Driver {
	t.Helper()
	d := New(testRunner(), Host{OS: "linux", Arch: "amd64"}) // q35: boots a multiboot image
	if _, err := d.Binary("amd64"); err != nil {
		t.Skip(err)
	}
	return d
}

func TestStartFaults(t *testing.T) {
	d := needQEMU(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no kernel at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	scratch := dull(loop(t))
	scratch.Drives = []vmm.Drive{{ID: "scratch", Path: file}}
	holder, err := d.Start(t.Context(), scratch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Kill() })
	huge := dull(loop(t))
	huge.MemoryMiB = 1 << 40
	for name, c := range map[string]struct {
		spec vmm.Spec
		want string
	}{
		"kernel is no kernel": {dull(file), "kernel"},
		"kernel is missing":   {dull(file + "x"), "open kernel"},
		"disk in use":         {scratch, "lock"},
		"absurd memory":       {huge, "memory"},
	} {
		m, err := d.Start(t.Context(), c.spec)
		if err == nil {
			_ = m.Kill()
			t.Errorf("%s: started", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "virtual machine box") || fault.CodeOf(err) == fault.Internal {
			t.Errorf("%s: %v (%s)", name, err, fault.CodeOf(err))
		}
	}
}

func TestMissingQEMUNamesThePackage(t *testing.T) {
	d := New(process.New(process.Options{Environ: []string{"PATH=" + t.TempDir()}}), linuxAMD)
	_, err := d.Start(t.Context(), dull("/dev/null"))
	if _, found := d.Binary("amd64"); found == nil {
		t.Skip("QEMU is in a folder that is always searched")
	}
	if fault.CodeOf(err) != fault.Host || !strings.Contains(fault.HintOf(err), "qemu-system-x86") {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
}

// TestSignalIsNoPowerOff ends QEMU in its own orderly way, from outside.
func TestSignalIsNoPowerOff(t *testing.T) {
	m, err := needQEMU(t).Start(t.Context(), dull(loop(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(m.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(); !errors.Is(err, errSignal) || fault.CodeOf(err) != fault.Boot {
		t.Errorf("Wait: %v", err)
	}
}

// TestHaltedMachineEnds stops a machine as QEMU does after an internal error,
// which no real machine here can be made to have.
func TestHaltedMachineEnds(t *testing.T) {
	m := started(t, "internal-error")
	m.event("STOP", nil)
	if err := m.Wait(); !errors.Is(err, ErrInternal) || fault.CodeOf(err) != fault.Host {
		t.Errorf("Wait: %v", err)
	}
	m = started(t, "running") // halted and continued: nothing to do
	m.event("STOP", nil)
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	if err := m.Wait(); err != nil {
		t.Errorf("Wait after Kill: %v", err)
	}
}

// started is a machine whose QMP answers are a script and whose process is a
// real QEMU.
func started(t *testing.T, status string) *machine {
	t.Helper()
	running, err := needQEMU(t).Start(t.Context(), dull(loop(t)))
	if err != nil {
		t.Fatal(err)
	}
	real := running.(*machine)
	t.Cleanup(func() { _ = real.Kill() })
	scripted := play(t, hello, `{"return": {"status": "`+status+`"}, "id": $ID}`+"\n", "")
	m := &machine{
		plan: real.plan, child: real.child, tail: real.tail, qmp: scripted, ports: newPortForEvents(t).ports,
		stopped: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if m.mon, err = openMonitor(scripted, m.event); err != nil {
		t.Fatal(err)
	}
	go m.watch()
	return m
}

// TestProbe asks a KVM that opens for its truth: either a guest comes up or the
// reason is KVM's.
func TestProbe(t *testing.T) {
	kernel, initrd := artifacts(t, "amd64")
	s := dull(kernel)
	s.Initrd, s.MemoryMiB = initrd, 512
	d := New(testRunner(), testHost(t))
	if err := d.Probe(t.Context(), s); err != nil {
		t.Errorf("a probe guest under emulation: %v", err)
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	_ = f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s.Accel = vmm.KVM
	err = d.Probe(ctx, s)
	t.Logf("KVM: %v", err)
	if err != nil && !errors.Is(err, ErrInternal) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a probe guest under KVM: %v", err)
	}
}
