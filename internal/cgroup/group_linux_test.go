package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/process"
)

// Words by which the test's own binary is another program.
const (
	keeper = "keeper" // makes a group and lives
	teller = "teller" // says in which group it is
	waiter = "waiter" // waits for the end of its standard input
	burner = "burner" // uses two processors
)

func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case keeper:
		g, err := create(os.Args[2])
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		runtime.KeepAlive(g)
	case teller:
		text, err := os.ReadFile("/" + members)
		fmt.Printf("%s%v", text, err)
	case waiter:
		_, _ = io.Copy(io.Discard, os.Stdin)
	case burner:
		begun := time.Now()
		var two sync.WaitGroup
		for range 2 {
			two.Go(func() {
				for time.Since(begun) < burnTime {
				}
			})
		}
		two.Wait()
	default:
		os.Exit(m.Run())
	}
}

// given opens the group that the user was given, and gives it back in the end. Where
// there is none the test is skipped: TestControlGroups of test/vm runs it where there is.
func given(t *testing.T) *Base {
	t.Helper()
	b, err := Here().Find()
	if err != nil {
		t.Skipf("no control group to try it with: %v", err)
	}
	if err := b.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("give it back: %v", err)
		}
		left, _ := filepath.Glob(filepath.Join(b.dir, prefix+"*"))
		enabledNow, _ := os.ReadFile(filepath.Join(b.dir, enabled))
		if b.inside && (len(left) > 0 || strings.TrimSpace(string(enabledNow)) != "") {
			t.Errorf("left %q, enabled %q", left, enabledNow)
		}
	})
	if len(Missing(b.Controllers)) > 0 {
		t.Fatalf("only the controllers %q", b.Controllers)
	}
	return b
}

func limited(t *testing.T, b *Base, l Limits) *Group {
	t.Helper()
	g, err := b.Make("test", l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(g.dir); !os.IsNotExist(err) {
			t.Errorf("the group is still there: %v", err)
		}
	})
	return g
}

// start starts a program in the group. It ends with the test at the latest.
func start(t *testing.T, g *Group, args ...string) (cmd *exec.Cmd, out *bufio.Reader) {
	t.Helper()
	if args[0] == keeper || args[0] == teller || args[0] == waiter || args[0] == burner {
		args = append([]string{"/proc/self/exe"}, args...)
	}
	cmd = exec.Command(args[0], args[1:]...)
	if g != nil {
		process.InGroup(cmd, g.Folder())
	}
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stderr = in, os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	t.Cleanup(func() { _, _, _ = in.Close(), hold.Close(), cmd.Process.Kill() })
	return cmd, bufio.NewReader(stdout)
}

func (g *Group) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// TestMemory: who takes more than the limit is killed, all of the group with it, and
// the group tells why.
func TestMemory(t *testing.T) {
	g := limited(t, given(t), Limits{Memory: 64 << 20})
	quiet, _ := start(t, g, waiter)
	if killed, _, err := g.Starved(); killed || err != nil {
		t.Errorf("starved before anybody was: %v, %v", killed, err)
	}
	hog, _ := start(t, g, "tail", "/dev/zero") // keeps what it read of a line without an end
	for what, cmd := range map[string]*exec.Cmd{"who took too much": hog, "who is in its group": quiet} {
		if status, _ := process.ExitStatus(cmd.Wait()); status != 128+int(syscall.SIGKILL) {
			t.Errorf("%s: status %d", what, status)
		}
	}
	if killed, own, err := g.Starved(); !killed || !own || err != nil {
		t.Errorf("starved %v, of its own limit %v, %v", killed, own, err)
	}
}

// TestProcesses: the group has no more of them than it may.
func TestProcesses(t *testing.T) {
	const limit = 12
	g := limited(t, given(t), Limits{Processes: limit})
	script := "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 60 >/dev/null & done; echo done; wait"
	bomb, out := start(t, g, "sh", "-c", script)
	_, _ = out.ReadString('\n') // a shell ends at the first that it cannot start
	var now int
	if _, err := fmt.Sscan(g.read(t, "pids.current"), &now); now > limit || now < limit/2 || err != nil {
		t.Errorf("%d processes at once, %v", now, err)
	}
	if count([]byte(g.read(t, "pids.events")), "max") == 0 {
		t.Error("none was refused")
	}
	_ = bomb.Process.Kill()
	_ = bomb.Wait() // the others are ended with the group
}

// burnTime is how long two processors are used.
const burnTime = 2 * time.Second

// TestProcessors: two busy threads get the time of one processor.
func TestProcessors(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one processor cannot be exceeded")
	}
	g := limited(t, given(t), Limits{CPUs: 1})
	begun := time.Now()
	cmd, _ := start(t, g, burner)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	stat := []byte(g.read(t, "cpu.stat"))
	used, took := time.Duration(count(stat, "usage_usec"))*time.Microsecond, time.Since(begun)
	t.Logf("used %v in %v, throttled %d times", used, took, count(stat, "nr_throttled"))
	if used > took*5/4 || used < burnTime/4 {
		t.Errorf("used %v of processors in %v", used, took)
	}
	if count(stat, "nr_throttled") == 0 {
		t.Error("it was never held back")
	}
}

// TestStartsInside: a program is in its group before it does anything, with namespaces
// of its own as well.
func TestStartsInside(t *testing.T) {
	g := limited(t, given(t), Limits{Memory: 256 << 20, Processes: 100, CPUs: 1})
	for name, prepare := range map[string]func(*exec.Cmd){"plain": func(*exec.Cmd) {}, "in a cage": process.InCage} {
		cmd := exec.Command("/proc/self/exe", teller)
		prepare(cmd)
		process.InGroup(cmd, g.Folder())
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), "/"+prefix+"test\n") || err != nil {
			t.Errorf("%s: it is in %q, %v", name, out, err)
		}
	}
	for file, want := range map[string]string{
		"memory.max": fmt.Sprint(256 << 20), "memory.oom.group": "1", "pids.max": "100", "cpu.max": "100000 100000",
	} {
		if got := g.read(t, file); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
}

// TestRemoveEnds: what is still in a group ends with it.
func TestRemoveEnds(t *testing.T) {
	g := limited(t, given(t), Limits{})
	cmd, _ := start(t, g, waiter)
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if status, _ := process.ExitStatus(cmd.Wait()); status != 128+int(syscall.SIGKILL) {
		t.Errorf("status %d", status)
	}
}

// TestSweep: the group of a process that was killed goes, that of one that lives stays.
func TestSweep(t *testing.T) {
	b := given(t)
	keep := func(name string) (dir string, cmd *exec.Cmd) {
		dir = filepath.Join(b.dir, prefix+name)
		cmd, out := start(t, nil, keeper, dir)
		if line, _ := out.ReadString('\n'); line != "<nil>\n" {
			t.Fatalf("make a group: %s", line)
		}
		return dir, cmd
	}
	dead, crashed := keep("dead")
	alive, living := keep("alive")
	if err := crashed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = crashed.Wait()
	if _, err := os.Stat(dead); err != nil {
		t.Fatalf("a crash leaves no group: %v", err)
	}
	b.sweep()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("what a crash left stays: %v", err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("the group of a living process: %v", err)
	}
	_ = living.Process.Kill()
	_ = living.Wait()
	b.sweep()
}
