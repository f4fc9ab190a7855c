//go:build linux

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

// reaper is the only one: it collects every child of this process.
var reaper = reap.New()

func TestMain(m *testing.M) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { reaper.Run(ctx) })
	code := m.Run()
	cancel()
	group.Wait()
	os.Exit(code)
}

// bench is a folder of logs and a reaper that starts real programs.
type bench struct {
	t      *testing.T
	config Config

	mu      sync.Mutex
	console bytes.Buffer
}

func newBench(t *testing.T, services ...wire.Service) *bench {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(me.Uid, 10, 32)
	gid, _ := strconv.ParseUint(me.Gid, 10, 32)
	b := &bench{t: t}
	b.config = Config{
		Services: services,
		Account: func(name string) (setup.Account, error) {
			if name != wire.AgentUser {
				return setup.Account{}, errors.New("no such user")
			}
			return setup.Account{Name: name, UID: uint32(uid), GID: uint32(gid), Home: t.TempDir(), Shell: "/bin/sh"}, nil
		},
		Environment: map[string]string{"OF_THE_SEED": "yes"}, Workspace: t.TempDir(), Start: reaper.Start,
		Logs: filepath.Join(t.TempDir(), "logs"), Gates: filepath.Join(t.TempDir(), "gates"), Grace: 10 * time.Second,
		Pause: Pause{First: time.Millisecond, Most: 4 * time.Millisecond, Good: time.Hour}, Now: time.Now,
		Logf: func(format string, args ...any) {
			b.mu.Lock()
			defer b.mu.Unlock()
			fmt.Fprintf(&b.console, format+"\n", args...)
		},
	}
	return b
}

// keep starts the services; they are stopped when the test ends at the latest.
func (b *bench) keep() *Keeper {
	b.t.Helper()
	k := New(b.config)
	k.Start()
	b.t.Cleanup(k.Stop)
	return k
}

func (b *bench) log(name string) string {
	data, _ := os.ReadFile(filepath.Join(b.config.Logs, name+".log"))
	return string(data)
}

// until waits for a line that a service's log gets by itself.
func (b *bench) until(name, expression string) []string {
	b.t.Helper()
	pattern := regexp.MustCompile(expression)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if found := pattern.FindStringSubmatch(b.log(name)); found != nil {
			return found
		}
	}
	b.t.Fatalf("%s: no line %q in\n%s", name, expression, b.log(name))
	return nil
}

func shell(name, script string) wire.Service {
	return wire.Service{Name: name, Run: []string{"sh", "-c", script}}
}

func TestRunsAsTheUserInTheWorkspace(t *testing.T) {
	b := newBench(t, shell("one", `echo "$USER|$OF_THE_SEED|$PWD|$(id -u)|$HOME"; echo bad >&2; cat; exec sleep 60`))
	b.keep()
	got := b.until("one", `(?m)^agent\|yes\|(\S+)\|(\d+)\|\S+$`)
	if got[1] != b.config.Workspace || got[2] != strconv.Itoa(os.Getuid()) {
		t.Errorf("it ran in %s as %s", got[1], got[2])
	}
	b.until("one", `(?m)^bad$`) // its standard input is empty, so that cat ends
}

func TestStartsAgainWithGrowingPauses(t *testing.T) {
	b := newBench(t, shell("flaky", "exit 3"))
	k := b.keep()
	b.until("flaky", `(?s)ended with status 3; it starts again in 1ms.*again in 2ms.*again in 4ms.*again in 4ms`)
	k.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.Contains(b.console.String(), "service flaky ended with status 3\n") {
		t.Errorf("the console says %q", b.console.String())
	}
}

func TestKilledStartsAgain(t *testing.T) {
	b := newBench(t, shell("victim", "exec sleep 60"))
	b.keep()
	pid, _ := strconv.Atoi(b.until("victim", `started as process (\d+)`)[1])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.until("victim", `(?s)was ended by signal 9.*started as process`)
}

func TestRestartPolicy(t *testing.T) {
	for _, c := range []struct {
		restart wire.Restart
		script  string
		again   bool
	}{
		{wire.RestartAlways, "exit 0", true},
		{"", "exit 0", true},
		{wire.RestartOnFailure, "exit 0", false},
		{wire.RestartOnFailure, "exit 1", true},
		{wire.RestartNever, "exit 1", false},
	} {
		s := shell("policy", c.script)
		s.Restart = c.restart
		b := newBench(t, s)
		k := b.keep()
		if c.again {
			b.until("policy", `(?s)started.*started`)
			continue
		}
		k.group.Wait() // it ends by itself
		if n := strings.Count(b.log("policy"), "started"); n != 1 {
			t.Errorf("%q after %q: started %d times", c.restart, c.script, n)
		}
	}
}

func TestStopIsOrderly(t *testing.T) {
	b := newBench(t,
		shell("polite", `trap 'echo goodbye; kill $!; exit 0' TERM; echo ready; sleep 600 & wait`),
		shell("group", `sleep 60 & echo ready; wait`),
	)
	k := b.keep()
	b.until("polite", `(?m)^ready$`)
	b.until("group", `(?m)^ready$`)
	k.Stop()
	if got := b.log("polite"); !strings.Contains(got, "goodbye\n") || !strings.HasSuffix(got, "stopped: ended with status 0\n") {
		t.Errorf("it said:\n%s", got)
	}
	if got := b.log("group"); !strings.Contains(got, "stopped: was ended by signal 15") {
		t.Errorf("it said:\n%s", got)
	}
}

func TestStopIsBounded(t *testing.T) {
	b := newBench(t, shell("deaf", `trap '' TERM; echo ready; sleep 600 & wait`))
	b.config.Grace = 50 * time.Millisecond
	k := b.keep()
	b.until("deaf", `(?m)^ready$`)
	k.Stop()
	if got := b.log("deaf"); !strings.Contains(got, "stopped: was ended by signal 9") {
		t.Errorf("it said:\n%s", got)
	}
	(*Keeper)(nil).Start()
	(*Keeper)(nil).Stop()
}

func TestLeftOverChildrenAreEnded(t *testing.T) {
	b := newBench(t, wire.Service{Name: "parent", Run: []string{"sh", "-c", `sleep 61 & echo "child $!"`}, Restart: wire.RestartNever})
	k := b.keep()
	child, _ := strconv.Atoi(b.until("parent", `child (\d+)`)[1])
	k.group.Wait() // must not wait for the child, which holds the log's pipe
	for deadline := time.Now().Add(10 * time.Second); alive(child); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the child lives on")
		}
	}
}

// alive says whether a process runs; one that its parent has not collected does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func TestWhatCannotStartSaysSo(t *testing.T) {
	b := newBench(t, wire.Service{Name: "absent", Run: []string{"no-such-program"}}, wire.Service{Name: "stranger", Run: []string{"true"}, User: "root"})
	b.keep()
	b.until("absent", "could not be started: no-such-program: not found; it starts again in")
	b.until("stranger", "could not be started: no such user; it starts again in")
}

func TestSaysWhenItAnswers(t *testing.T) {
	hits := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hits++; r.URL.Path != "/health" || hits < 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	s := shell("web", "exec sleep 60")
	s.Port, s.Health = port, "/health"
	b := newBench(t, s)
	b.keep()
	b.until("web", fmt.Sprintf("answers on port %d after", port))
	if hits != 2 {
		t.Errorf("asked %d times, want once more after the refusal", hits)
	}
}

// TestGate: whoever takes a shared lock waits until the service answers, and again
// once it has ended.
func TestGate(t *testing.T) {
	well := make(chan bool, 1)
	well <- false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ok := <-well
		well <- ok
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	s := shell("web", "exec sleep 60")
	s.Port, s.Health = server.Listener.Addr().(*net.TCPAddr).Port, "/"
	b := newBench(t, s, shell("without", "exec sleep 60"))
	b.config.Pause.First, b.config.Pause.Most = time.Hour, time.Hour
	b.keep()
	b.until("web", "started")
	if b.passes("web") {
		t.Error("the gate is open before the service answers")
	}
	if _, err := os.Stat(filepath.Join(b.config.Gates, "without")); err == nil {
		t.Error("a service without a port has a gate")
	}
	<-well
	well <- true
	b.until("web", "answers on port")
	b.eventually("the gate opens", func() bool { return b.passes("web") })
	pid, _ := strconv.Atoi(b.until("web", `started as process (\d+)`)[1])
	_ = syscall.Kill(pid, syscall.SIGKILL)
	b.until("web", "was ended by signal 9")
	b.eventually("the gate is closed again", func() bool { return !b.passes("web") })
}

func TestGateOfOneThatIsNotStartedAgain(t *testing.T) {
	s := wire.Service{Name: "web", Run: []string{"false"}, Port: 1, Restart: wire.RestartNever}
	b := newBench(t, s)
	k := b.keep()
	k.group.Wait()
	if !b.passes("web") {
		t.Error("a service that will never answer is waited for")
	}
}

// passes says whether a waiter would get through the gate of a service now.
func (b *bench) passes(name string) bool {
	b.t.Helper()
	file, err := os.Open(filepath.Join(b.config.Gates, name))
	if err != nil {
		b.t.Fatal(err)
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not in time: %s", what)
		}
	}
}

func TestAsk(t *testing.T) {
	for answer, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\n": true, "HTTP/1.0 302 Found\r\nX: y\r\n": true, "HTTP/1.1 404 No\r\n": false,
		"HTTP/1.1 500 x\r\n": false, "HTTP/1.1 100 Continue\r\n": false, "SSH-2.0-x\r\n": false, "": false,
		strings.Repeat("x", 1<<16): false,
	} {
		conn := &conversation{answer: strings.NewReader(answer)}
		if err := ask(conn, "127.0.0.1:80", "/x"); (err == nil) != ok {
			t.Errorf("%.30q: %v", answer, err)
		}
		if got := conn.said.String(); !strings.HasPrefix(got, "GET /x HTTP/1.0\r\nHost: 127.0.0.1:80\r\n") {
			t.Errorf("asked %q", got)
		}
	}
}

type conversation struct {
	said   bytes.Buffer
	answer *strings.Reader
}

func (c *conversation) Write(p []byte) (int, error) { return c.said.Write(p) }
func (c *conversation) Read(p []byte) (int, error)  { return c.answer.Read(p) }

func TestBackoff(t *testing.T) {
	b := backoff{Pause: Pause{First: time.Second, Most: 5 * time.Second, Good: time.Minute}}
	for i, c := range []struct{ ran, want time.Duration }{
		{0, time.Second},
		{0, 2 * time.Second},
		{59 * time.Second, 4 * time.Second},
		{0, 5 * time.Second},
		{0, 5 * time.Second},
		{time.Minute, time.Second},
		{0, 2 * time.Second},
	} {
		if got := b.next(c.ran); got != c.want {
			t.Errorf("pause %d after %v is %v, want %v", i, c.ran, got, c.want)
		}
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	l, err := openLog(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("a", 1023) + "\n")
	for range 3000 {
		_, _ = l.Write(line)
	}
	_, _ = l.Write([]byte("last\n"))
	l.close()
	now, err1 := os.ReadFile(path)
	before, err2 := os.ReadFile(path + ".1")
	if err1 != nil || err2 != nil || len(now)+len(before) > 2*maxLog || len(before) < maxLog/2 || !bytes.HasSuffix(now, []byte("last\n")) {
		t.Errorf("%d and %d bytes, %v, %v", len(now), len(before), err1, err2)
	}
	again, err := openLog(path, time.Now)
	if err != nil || again.size != int64(len(now)) {
		t.Errorf("goes on at %d of %d, %v", again.size, len(now), err)
	}
	again.close()
}

func TestLogsInAPlaceThatIsNone(t *testing.T) {
	b := newBench(t, wire.Service{Name: "one", Run: []string{"true"}, Restart: wire.RestartNever})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.config.Logs = file
	k := b.keep()
	k.group.Wait()
	if got := b.console.String(); !strings.Contains(got, "open log") || !strings.Contains(got, "ended with status 0") {
		t.Errorf("the console says %q", got)
	}
}
