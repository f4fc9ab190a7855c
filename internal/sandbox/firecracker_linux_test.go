package sandbox_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/test/cable"
)

// TestVMFirecracker takes a whole sandbox on a real Firecracker through all that a user
// does with it: programs, a mount, the network, forks, a snapshot, kills, and an orderly
// stop. It boots twice; what else runs goes on from there. All of it is in network
// namespaces that lead nowhere else.
func TestVMFirecracker(t *testing.T) {
	needsFirecracker(t)
	if !cable.Apart(t) {
		return
	}
	o := newOutside(t)
	f := newFirecracker(t, o)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *family)
	}{
		{"confined", fcConfined},
		{"statuses", func(t *testing.T, f *family) { vmStatuses(t, f.bench) }},
		{"streams apart", func(t *testing.T, f *family) { vmStreamsApart(t, f.bench) }},
		{"network", func(_ *testing.T, f *family) { f.reaches("vm", o) }},
		{"gives memory back", func(_ *testing.T, f *family) { f.givesBack("vm") }},
		{"fork", fcFork},
		{"fork's network", func(_ *testing.T, f *family) { f.reaches("fork-3", o) }},
		{"fork's memory", fcMemoryKnown},
		{"stop", fcStop},
		{"snapshot", func(_ *testing.T, f *family) { f.keptAndRestored("fork-2", "back") }},
		{"restored one's network", func(_ *testing.T, f *family) { f.reaches("back", o) }},
		{"machine killed", func(_ *testing.T, f *family) { f.killMachine("back") }},
		{"supervisor killed", fcSupervisorKilled},
		{"this computer's network", func(t *testing.T, _ *family) { o.unchanged(t) }},
	} {
		t.Run(step.name, func(t *testing.T) {
			inner, b := *f, *f.bench
			b.t, inner.bench = t, &b
			step.run(t, &inner)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
}

// needsFirecracker skips a test where the environment names no Firecracker and image, or
// the user may not use KVM.
func needsFirecracker(t *testing.T) {
	t.Helper()
	if os.Getenv(imageVariable) == "" || os.Getenv(firecrackerVariable) == "" {
		t.Skipf("%s and %s are not both set: no Firecracker is started", imageVariable, firecrackerVariable)
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	_ = kvm.Close()
}

// newFirecracker boots a sandbox "vm" of the published base, which may reach what is
// open to it outside.
func newFirecracker(t *testing.T, o *outside) *family {
	t.Helper()
	image, dir := os.Getenv(imageVariable), os.Getenv(firecrackerVariable)
	f := newFamily(t)
	f.bench = newBench(t)
	f.tellOfFailure()
	spec := f.spec("vm")
	spec.VMM, spec.Accel, spec.Arch, spec.CPUs, spec.MemoryMiB, spec.DiskBytes = "firecracker", vmm.KVM, runtime.GOARCH, 1, 256, 1<<30
	spec.Image = record.Image{
		Kernel: filepath.Join(dir, "vmlinux"), CommandLine: "quiet",
		Layers: []record.Layer{{Name: "base", Path: filepath.Join(image, "base.ext4")}},
	}
	spec.Mounts, spec.Network, spec.Egress = f.mount(), true, o.policy(t)
	// Where KVM interprets the kernel, it does not save what these would use.
	spec.Env = map[string]string{"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F", "GODEBUG": "cpu.all=off"}
	if _, err := f.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r := f.startWithin("vm", bootTime)
	t.Logf("ready in %v: %+v", time.Since(begun).Round(time.Second), r.Boot)
	f.prepare("vm")
	return f
}

// Hosts in the other namespace, of a range for documentation.
const farHost, closedHost = "203.0.113.10", "203.0.113.20"

// outside is what is around a sandbox: this computer, and hosts in a namespace that a
// cable leads to. One port of each is open to the sandbox.
type outside struct {
	*cable.Cable
	near, nearClosed, far int
	links                 string // of this computer, before any sandbox
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{Cable: cable.Lay(t), near: answers(t, "this computer"), nearClosed: answers(t, "this computer")}
	err := errors.Join(o.Host(farHost, closedHost), o.There(func() error {
		o.far = answers(t, "the host there")
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	o.links = o.all(t)
	return o
}

// policy opens one port of this computer and one of a host there.
func (o *outside) policy(t *testing.T) egress.Policy {
	t.Helper()
	far, err := egress.ParseRule(fmt.Sprintf("%s:%d", farHost, o.far))
	if err != nil {
		t.Fatal(err)
	}
	return egress.Policy{Mode: egress.Restricted, Allow: []egress.Rule{egress.HostPort(uint16(o.near)), far}}
}

// all are the interfaces of this computer, and its addresses, routes and rules of
// version 4: those of version 6 the kernel gives each interface by itself, later.
func (o *outside) all(t *testing.T) (text string) {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		text += i.Name + "\n"
	}
	for _, what := range [][]string{{"-o", "addr", "show"}, {"route", "show", "table", "all"}, {"rule", "show"}} {
		out, err := exec.Command("ip", append([]string{"-4"}, what...)...).Output()
		if err != nil {
			t.Fatalf("ip %q: %v", what, err)
		}
		text += string(out)
	}
	return text
}

// unchanged checks that no sandbox has changed anything of this computer's network.
func (o *outside) unchanged(t *testing.T) {
	t.Helper()
	if now := o.all(t); now != o.links {
		t.Errorf("this computer's network was\n%sand is\n%s", o.links, now)
	}
}

// answers is a server on all addresses that answers a line with a line.
func answers(t *testing.T, as string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				line, _ := bufio.NewReader(conn).ReadString('\n')
				_, _ = fmt.Fprintf(conn, "%s heard %s", as, line)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// reaches checks that a sandbox comes to what is open to it, and to nothing beside that.
func (f *family) reaches(name string, o *outside) {
	f.t.Helper()
	script := `exec 3<>/dev/tcp/$0/$1 || exit 9; echo $2 >&3; cat <&3`
	try := func(host string, port int) (string, int) {
		return f.exec(name, "", "timeout", "120", "bash", "-c", script, host, strconv.Itoa(port), name)
	}
	for _, open := range []struct {
		host, as string
		port     int
	}{{"host.smolvm.internal", "this computer", o.near}, {farHost, "the host there", o.far}} {
		if out, status := try(open.host, open.port); status != 0 || strings.TrimSpace(out) != open.as+" heard "+name {
			f.t.Errorf("%s at %s: %d, %q", name, open.host, status, out)
		}
	}
	for host, port := range map[string]int{"host.smolvm.internal": o.nearClosed, closedHost: o.far} {
		if out, status := try(host, port); status != 9 {
			f.t.Errorf("%s came to %s:%d, which is closed to it: %d, %q", name, host, port, status, out)
		}
	}
}

// fcConfined checks what the kernel says of the machine monitor's process: no
// capability, no way to any, and namespaces of its own.
func fcConfined(t *testing.T, f *family) {
	r, err := f.book.Read("vm")
	if err != nil {
		t.Fatal(err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(r.VMMPid))
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

// memorySlack is what is promised of a resting sandbox: how much more of this computer's
// memory its monitor takes, at most, than its guest uses, after how long.
const (
	memorySlack = 64 << 20
	memoryTime  = time.Minute
)

// givesBack has a guest use memory and end, and waits until this computer has it.
func (f *family) givesBack(name string) {
	f.t.Helper()
	// With what else is used that is more than the balloon leaves to the guest, so that
	// the host had it for a moment, whatever the balloon held before.
	const touched = 96 << 20
	f.ask(name, "python3", "-c", fmt.Sprintf("b'x' * %d", touched))
	c, err := f.m.Connect(f.t.Context(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	for begun := time.Now(); time.Since(begun) < memoryTime; time.Sleep(5 * time.Second) {
		s, err := c.Status(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		if s.Memory == nil {
			continue
		}
		held, most := resident(f.t, s.VMMPid)
		f.t.Logf("%s after %v: used %d MiB, returned %d, its monitor has %d, had %d", name, time.Since(begun).Round(time.Second),
			s.Memory.Used>>20, s.Memory.Returned>>20, held>>20, most>>20)
		if most-held >= touched/4 && held <= s.Memory.Used+memorySlack {
			return
		}
	}
	f.t.Errorf("%s keeps memory that its guest does not use", name)
}

// resident is the memory of this computer that a process has, and the most that it had,
// in bytes.
func resident(t *testing.T, pid int) (now, most int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &now)
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &most)
	}
	if now == 0 || most == 0 {
		t.Fatalf("no resident memory in %s", text)
	}
	return now << 10, most << 10
}

// fcMemoryKnown: a fork tells its own supervisor how it uses its memory.
func fcMemoryKnown(t *testing.T, f *family) {
	c, err := f.m.Connect(t.Context(), "fork-3")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for begun := time.Now(); ; time.Sleep(time.Second) {
		s, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Memory != nil && s.Memory.Used > 0 && s.Memory.Returned > 0 {
			return
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("its supervisor knows %+v", s.Memory)
		}
	}
}

// fcFork forks the sandbox three times: four run side by side then.
func fcFork(_ *testing.T, f *family) {
	f.fork("vm", "fork-1", "fork-2", "fork-3")
	for _, name := range []string{"fork-1", "fork-2", "fork-3", "vm"} {
		f.lookAt(name)
	}
}

// fcSupervisorKilled: with its supervisor a Firecracker ends, and the next start boots.
func fcSupervisorKilled(_ *testing.T, f *family) {
	f.startsAnew("fork-1", func() { f.killSupervisor("fork-1") })
}

// fcStop stops the first sandbox, which the others came from, in order.
func fcStop(t *testing.T, f *family) {
	r, err := f.book.Read("vm")
	if err != nil {
		t.Fatal(err)
	}
	client, err := f.m.Connect(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	begun := time.Now()
	if err := f.m.Stop(t.Context(), "vm", 2*time.Minute); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %v", time.Since(begun).Round(time.Second))
	if r, err := f.book.Read("vm"); err != nil || r.LastError != "" || r.Stopped.IsZero() {
		t.Errorf("after the stop: %+v, %v", r, err)
	}
	if _, err := client.Exec(t.Context(), command("true"), supervise.Streams{}); fault.CodeOf(err) == "" {
		t.Error("a stopped sandbox runs programs")
	}
	if err := syscall.Kill(r.VMMPid, 0); err == nil {
		t.Error("Firecracker outlives its sandbox")
	}
}
