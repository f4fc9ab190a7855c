package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/embedded"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/supervise/guesttest"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/vmm/qemu"
	"github.com/smolvm/smolvm/internal/wire"
)

// imageVariable names a folder with a kernel, its modules and base.ext4 for the
// tests that boot a virtual machine.
const imageVariable = "SMOLVM_TEST_IMAGE"

// driver and agent are what a supervisor of these tests gets.
func driver(r record.Record) (vmm.Driver, error) {
	if r.VMM == "fake" {
		return guesttest.Driver(r)
	}
	if r.VMM == "plain" {
		return plainDriver{}, nil
	}
	if r.VMM == "firecracker" {
		return firecrackerDriver()
	}
	info := host.Probe()
	return qemu.New(process.New(process.Options{Environ: os.Environ()}),
		qemu.Host{OS: runtime.GOOS, Arch: runtime.GOARCH, TSCKHz: info.TSCKHz}), nil
}

func agent(arch string) ([]byte, error) {
	if os.Getenv(imageVariable) == "" {
		return []byte("agent"), nil
	}
	return embedded.Agent(arch)
}

// newVM makes a bench with a real sandbox "vm" that runs.
func newVM(t *testing.T, changes ...func(*sandbox.Spec)) (*bench, record.Record) {
	t.Helper()
	image := os.Getenv(imageVariable)
	if image == "" {
		t.Skipf("%s is not set: no virtual machine is booted", imageVariable)
	}
	b := newBench(t)
	spec := b.spec("vm")
	spec.VMM, spec.Arch, spec.CPUs, spec.MemoryMiB, spec.DiskBytes, spec.Network = "qemu", runtime.GOARCH, 2, 1024, 4<<30, true
	spec.Image = record.Image{
		Kernel: filepath.Join(image, "kernel"), Modules: filepath.Join(image, "modules"), CommandLine: "quiet",
		Layers: []record.Layer{{Name: "base", Path: filepath.Join(image, "base.ext4")}},
	}
	spec.Services = []wire.Service{{Name: "ticker", Run: []string{
		"sh", "-c", `echo "up: $USER $PWD $HOME"; trap 'echo bye; kill $!; exit 0' TERM; sleep 600 & wait`,
	}}}
	if _, err := os.Stat(spec.Image.Modules); err != nil {
		spec.Image.Modules = "" // our own kernel has none
	}
	for _, change := range changes {
		change(&spec)
	}
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	b.canSleep()
	return b, b.start("vm")
}

// program runs a program with all its streams.
func (b *bench) program(c supervise.Command, s supervise.Streams) (int, error) {
	b.t.Helper()
	client, err := b.m.Connect(b.t.Context(), "vm")
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	return client.Exec(b.t.Context(), c, s)
}

func TestVM(t *testing.T) {
	b, r := newVM(t)
	t.Logf("boot: %+v", r.Boot)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"statuses", vmStatuses},
		{"ten megabytes", vmTenMegabytes},
		{"streams apart", vmStreamsApart},
		{"terminal", vmTerminal},
		{"signals", vmSignals},
		{"hang-up", vmHangUp},
		{"parallel", vmParallel},
		{"latency", vmLatency},
		{"service", vmService},
		{"clock", vmClock},
		{"reboot", vmReboot},
		{"stop and start", vmStopStart},
		{"service stopped in order", vmServiceStopped},
		{"hangs", vmHangs},
		{"machine killed", vmMachineKilled},
		{"supervisor killed", vmSupervisorKilled},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner := *b
			inner.t = t
			c.run(t, &inner)
		})
		if t.Failed() {
			log, _ := os.ReadFile(b.book.Folder("vm").Log())
			console, _ := os.ReadFile(b.book.Folder("vm").Console())
			t.Fatalf("supervisor:\n%s\nconsole:\n%s", log, console)
		}
	}
}

// tickerLog waits until the service's log has what grep finds, and gives all of it.
func tickerLog(t *testing.T, b *bench, pattern string, times int) string {
	t.Helper()
	script := `for i in $(seq 300); do [ $(grep -cE "$1" "$0") -ge "$2" ] && break; sleep 0.1; done; cat "$0"`
	out, _ := b.exec("vm", "", "sh", "-c", script, wire.ServiceLog+"/ticker.log", pattern, fmt.Sprint(times))
	if got := len(regexp.MustCompile("(?m)"+pattern).FindAllString(out, -1)); got < times {
		t.Fatalf("%q is there %d times, want %d:\n%s", pattern, got, times, out)
	}
	return out
}

// vmService: a service runs without a session, as the user, and again when it was killed.
func vmService(t *testing.T, b *bench) {
	out := tickerLog(t, b, "^up: agent /workspace /home/agent$", 1)
	pid := regexp.MustCompile(`started as process (\d+)`).FindStringSubmatch(out)
	if pid == nil {
		t.Fatalf("the log does not name the process:\n%s", out)
	}
	if _, status := b.exec("vm", "", "kill", "-9", pid[1]); status != 0 {
		t.Fatalf("kill of process %s gave %d", pid[1], status)
	}
	tickerLog(t, b, "was ended by signal 9 .*; it starts again in 1s$", 1)
	tickerLog(t, b, "^up: agent", 2)
}

// vmServiceStopped: every stop before this case gave it SIGTERM and time to heed it.
func vmServiceStopped(t *testing.T, b *bench) {
	out := tickerLog(t, b, "^bye$", 1)
	if !strings.Contains(out, "bye\n") || !strings.Contains(out, "smolvm: stopped: ended with status 0\n") {
		t.Errorf("the service was not stopped in order:\n%s", out)
	}
	tickerLog(t, b, "^up: agent", 3) // and runs again
}

func vmStatuses(t *testing.T, b *bench) {
	for line, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255, "kill -9 $$": 137} {
		if _, got := b.exec("vm", "", "sh", "-c", line); got != want {
			t.Errorf("%s gave %d, want %d", line, got, want)
		}
	}
	for program, want := range map[string]int{"/no/such": 127, "/etc/passwd": 126} {
		if _, got := b.exec("vm", "", program); got != want {
			t.Errorf("%s gave %d, want %d", program, got, want)
		}
	}
}

func vmTenMegabytes(t *testing.T, b *bench) {
	data := make([]byte, 10<<20)
	_, _ = rand.Read(data)
	var out bytes.Buffer
	begun := time.Now()
	status, err := b.program(command("cat"), supervise.Streams{In: bytes.NewReader(data), Out: &out})
	if err != nil || status != 0 || sha256.Sum256(out.Bytes()) != sha256.Sum256(data) {
		t.Errorf("10 MB through cat: %d, %v, %d bytes back", status, err, out.Len())
	}
	t.Logf("10 MB both ways in %v", time.Since(begun))
}

func vmStreamsApart(t *testing.T, b *bench) {
	var out, errs bytes.Buffer
	status, err := b.program(command("sh", "-c", "cat; echo oops >&2; test -t 0 || echo pipe"),
		supervise.Streams{In: strings.NewReader("in\n"), Out: &out, Err: &errs})
	if err != nil || status != 0 || out.String() != "in\npipe\n" || errs.String() != "oops\n" {
		t.Errorf("%d, %v, out %q, err %q", status, err, &out, &errs)
	}
}

func vmTerminal(t *testing.T, b *bench) {
	sizes := make(chan wire.Size)
	seen := newWaiter()
	c := command("sh", "-c", `stty size; trap 'stty size; kill $!; exit 7' WINCH; echo "$TERM" ready; sleep 600 & wait`)
	c.TTY, c.Term, c.Size = true, "xterm", wire.Size{Columns: 100, Rows: 30}
	go func() {
		seen.await(t, "xterm ready")
		sizes <- wire.Size{Columns: 120, Rows: 40}
	}()
	in, hold := io.Pipe()
	defer hold.Close()
	status, err := b.program(c, supervise.Streams{In: in, Out: seen, Resize: sizes})
	if err != nil || status != 7 || !strings.Contains(seen.String(), "30 100") || !strings.Contains(seen.String(), "40 120") {
		t.Errorf("%d, %v, %q", status, err, seen.String())
	}
}

func vmSignals(t *testing.T, b *bench) {
	for name, want := range map[string]int{"INT": 130, "TERM": 143, "KILL": 137} {
		signals := make(chan string, 1)
		seen := newWaiter()
		go func() {
			seen.await(t, "here")
			signals <- name
		}()
		status, err := b.program(command("sh", "-c", "echo here; exec sleep 60"), supervise.Streams{Out: seen, Signals: signals})
		if err != nil || status != want {
			t.Errorf("SIG%s gave %d, %v, want %d", name, status, err, want)
		}
	}
}

func vmHangUp(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(t.Context())
	client, err := b.m.Connect(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	seen := newWaiter()
	go func() {
		seen.await(t, "here")
		cancel()
	}()
	_, err = client.Exec(ctx, command("sh", "-c", "trap 'echo gone > /tmp/hup; kill $!; exit' HUP; echo here; sleep 600 & wait"),
		supervise.Streams{Out: seen})
	wantFault(t, err, fault.Interrupted)
	if out, status := b.exec("vm", "", "timeout", "10", "sh", "-c", "until cat /tmp/hup 2>/dev/null; do sleep 0.1; done"); status != 0 || out != "gone\n" {
		t.Errorf("the program of a client that vanished was not hung up: %d %q", status, out)
	}
}

func vmParallel(t *testing.T, b *bench) {
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			want := fmt.Sprintf("%d\n", i)
			var out bytes.Buffer
			status, err := b.program(command("sh", "-c", "sleep 0.2; cat"), supervise.Streams{In: strings.NewReader(want), Out: &out})
			if err != nil || status != 0 || out.String() != want {
				t.Errorf("exec %d: %d, %v, %q", i, status, err, &out)
			}
		})
	}
	running.Wait()
}

// vmLatency compares an exec with a session on a live SSH connection.
func vmLatency(t *testing.T, b *bench) {
	const rounds = 20
	client, err := b.m.Connect(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	live := b.liveSSH(t, client)
	defer live.Close()
	direct, through := make([]time.Duration, rounds), make([]time.Duration, rounds)
	for i := range rounds {
		begun := time.Now()
		s, err := live.Start(t.Context(), wire.Start{Argv: []string{"/bin/true"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, s.Stdout())
		if _, err := s.Wait(); err != nil {
			t.Fatal(err)
		}
		direct[i] = time.Since(begun)
		begun = time.Now()
		if _, err := client.Exec(t.Context(), command("/bin/true"), supervise.Streams{}); err != nil {
			t.Fatal(err)
		}
		through[i] = time.Since(begun)
	}
	a, c := median(direct), median(through)
	t.Logf("session on a live connection %v, exec %v: %.2f", a, c, float64(c)/float64(a))
	if float64(c) > 1.3*float64(a) {
		t.Errorf("an exec costs %v, a session on a live connection %v", c, a)
	}
}

// liveSSH is an SSH connection of the test's own.
func (b *bench) liveSSH(t *testing.T, client *supervise.Client) *sshx.Client {
	t.Helper()
	ours, theirs := newPipe()
	go func() { _ = client.SSH(context.Background(), theirs) }()
	folder := b.book.Folder("vm")
	key, _ := os.ReadFile(folder.ClientKey())
	hostKey, _ := os.ReadFile(folder.HostKeyPublic())
	live, err := sshx.Connect(t.Context(), ours, sshx.Config{User: wire.AgentUser, ClientKey: string(key), HostKey: string(hostKey)})
	if err != nil {
		t.Fatal(err)
	}
	return live
}

func vmReboot(t *testing.T, b *bench) {
	before, _ := b.exec("vm", "", "cat", "/proc/sys/kernel/random/boot_id")
	begun := time.Now()
	_, err := b.program(supervise.Command{Start: wire.Start{Argv: []string{"reboot"}, User: "root"}}, supervise.Streams{})
	t.Logf("reboot: %v", err)
	for deadline := time.Now().Add(time.Minute); ; {
		after, status := "", 0
		var out bytes.Buffer
		if status, err = b.program(command("cat", "/proc/sys/kernel/random/boot_id"), supervise.Streams{Out: &out}); err == nil && status == 0 {
			if after = out.String(); after != before {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no new boot: %v, %q", err, after)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("again after %v", time.Since(begun))
}

func vmStopStart(t *testing.T, b *bench) {
	b.exec("vm", "kept", "sh", "-c", "cat > ~/a; cp ~/a /workspace/b")
	begun := time.Now()
	if err := b.m.Stop(t.Context(), "vm", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %v", time.Since(begun))
	if s := b.wantState("vm", sandbox.Stopped); s.LastError != "" {
		t.Error(s.LastError)
	}
	begun = time.Now()
	b.start("vm")
	t.Logf("started in %v", time.Since(begun))
	if out, _ := b.exec("vm", "", "sh", "-c", "cat ~/a /workspace/b"); out != "keptkept" {
		t.Errorf("after stop and start: %q", out)
	}
}

func vmMachineKilled(t *testing.T, b *bench) {
	b.killMachine("vm")
	b.start("vm")
}

// killMachine ends a sandbox's machine monitor, which its supervisor has to see and
// to write down.
func (b *bench) killMachine(name string) {
	b.t.Helper()
	r, _ := b.book.Read(name)
	client, err := b.m.Connect(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer client.Close()
	done := client.Done()
	begun := time.Now()
	if err := syscall.Kill(r.VMMPid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	<-done
	b.t.Logf("noticed in %v", time.Since(begun))
	if s := b.wantState(name, sandbox.Stopped); !strings.Contains(s.LastError, "killed") {
		b.t.Errorf("last error %q", s.LastError)
	}
}

// vmHangs halts the machine's monitor, as a guest looks that hangs: what waits for it
// ends, and it is used again once it answers.
func vmHangs(t *testing.T, b *bench) {
	r, _ := b.book.Read("vm")
	client, err := b.m.Connect(t.Context(), "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := syscall.Kill(r.VMMPid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	begun := time.Now()
	_, err = client.Exec(ctx, supervise.Command{Start: wire.Start{Argv: []string{"true"}}}, supervise.Streams{})
	t.Logf("noticed in %v: %v", time.Since(begun), err)
	if fault.CodeOf(err) != fault.Boot || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a program of a guest that hangs: %v", err)
	}
	if err := syscall.Kill(r.VMMPid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if again, err := b.m.Connect(t.Context(), "vm"); err == nil {
			status, err := again.Exec(t.Context(), supervise.Command{Start: wire.Start{Argv: []string{"true"}}}, supervise.Streams{})
			_ = again.Close()
			if err == nil && status == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("a guest that answers again is not used")
		}
	}
}

func vmSupervisorKilled(t *testing.T, b *bench) {
	b.killSupervisor("vm")
	b.start("vm")
	if out, _ := b.exec("vm", "", "sh", "-c", "cat ~/a"); out != "kept" {
		t.Errorf("the disk lost its files: %q", out)
	}
}

// killSupervisor ends a sandbox's supervisor, with which its machine has to end.
func (b *bench) killSupervisor(name string) {
	b.t.Helper()
	r, _ := b.book.Read(name)
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	b.released(name)
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(r.VMMPid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the machine %d outlives its supervisor", r.VMMPid)
		}
	}
	b.wantState(name, sandbox.Stopped)
}

// vmClock: the guest's clock is right within seconds after its computer slept.
func vmClock(t *testing.T, b *bench) {
	b.sleeps(6 * time.Hour)
	b.soonAhead("vm", 6*time.Hour, "date", "+%s%N")
	b.sleeps(0)
	b.soonAhead("vm", 0, "date", "+%s%N")
}
