package sandbox_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/supervise/guesttest"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestMain makes this program its own supervisor, and a starter to be killed.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == cage.Word:
		os.Exit(cage.Stage(os.Stderr))
	case len(os.Args) == 6 && os.Args[1] == "supervise":
		clock := benchClock{os.Args[3]}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := supervise.Run(ctx, supervise.Options{
			Home: os.Args[3], Name: os.Args[5], Driver: driver, Now: clock.now, Log: os.Stderr,
			Agent: agent, Jumps: clock.jumps, Groups: cgroup.Here(),
		})
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) == 3 && os.Args[1] == "fork":
		_, err := openBench(os.Args[2]).m.Fork(context.Background(), "one", sandbox.Fork{Names: []string{"two", "three"}})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(0)
	case len(os.Args) == 4 && os.Args[1] == "start":
		b := openBench(os.Args[2])
		if os.Args[3] == "new" {
			if _, err := b.m.Create(context.Background(), b.spec("new", guesttest.Hang)); err != nil {
				panic(err)
			}
		}
		_, err := b.m.Start(context.Background(), os.Args[3], sandbox.StartOptions{Timeout: time.Minute})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// bench is a home with a manager.
type bench struct {
	t    *testing.T
	home string
	book *record.Book
	m    *sandbox.Manager
	run  *process.Runner
}

// openBench makes a manager of a home.
func openBench(home string) *bench {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	book, err := record.Open(home)
	if err != nil {
		panic(err)
	}
	runner := process.New(process.Options{Environ: os.Environ(), Self: self})
	return &bench{home: home, book: book, run: runner, m: sandbox.New(sandbox.Options{
		Home: home, Book: book, Runner: runner, Sink: event.Discard{}, Now: time.Now, Rand: rand.Reader,
	})}
}

// newBench makes a fresh home whose sandboxes are gone when the test ends.
func newBench(t *testing.T) *bench {
	t.Helper()
	home, err := os.MkdirTemp("", "smol") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	b := openBench(home)
	b.t = t
	t.Cleanup(func() {
		names, _ := b.m.Names()
		for _, name := range names {
			if err := b.m.Delete(context.Background(), name, sandbox.DeleteOptions{Force: true}); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
		b.nothingIn("run")
		_ = os.RemoveAll(home)
	})
	return b
}

func (b *bench) nothingIn(folder string) {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.home, folder))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".gate" {
			b.t.Errorf("%s holds %s", folder, e.Name())
		}
	}
}

// spec is a small sandbox whose guest behaves as the words say.
func (b *bench) spec(name string, words ...string) sandbox.Spec {
	kernel := filepath.Join(b.home, "kernel")
	if err := os.WriteFile(kernel, []byte("kernel"), 0o600); err != nil {
		panic(err)
	}
	return sandbox.Spec{
		Name: name, Preset: "claude-code", Launch: []string{"claude"}, Arch: "amd64", VMM: "fake", Accel: vmm.TCG,
		Image: record.Image{
			Kernel: kernel, CommandLine: strings.Join(words, " "), Layers: []record.Layer{{Name: "base", Path: kernel}},
		},
		CPUs: 1, MemoryMiB: 128, DiskBytes: 64 << 20,
	}
}

func (b *bench) create(name string, words ...string) {
	b.t.Helper()
	if _, err := b.m.Create(b.t.Context(), b.spec(name, words...)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) start(name string) record.Record {
	b.t.Helper()
	return b.startWithin(name, time.Minute)
}

func (b *bench) startWithin(name string, limit time.Duration) record.Record {
	b.t.Helper()
	r, err := b.m.Start(b.t.Context(), name, sandbox.StartOptions{Timeout: limit})
	if err != nil {
		log, _ := os.ReadFile(b.book.Folder(name).Log())
		b.t.Fatalf("%v\n%s", err, log)
	}
	return r
}

func (b *bench) wantState(name, want string) sandbox.Status {
	b.t.Helper()
	s, err := b.m.Get(name)
	if err != nil || s.State != want {
		b.t.Fatalf("sandbox %s is %q (%v), want %s", name, s.State, err, want)
	}
	return s
}

// exec runs a program and returns its output and status.
func (b *bench) exec(name, in string, argv ...string) (string, int) {
	b.t.Helper()
	c, err := b.m.Connect(b.t.Context(), name)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	var out, errs bytes.Buffer
	status, err := c.Exec(b.t.Context(), command(argv...), supervise.Streams{In: strings.NewReader(in), Out: &out, Err: &errs})
	if err != nil {
		b.t.Fatalf("exec %v: %v", argv, err)
	}
	if errs.Len() > 0 {
		b.t.Logf("%s: %v said %q", name, argv, &errs)
	}
	return out.String(), status
}

// released waits until no process holds the sandbox: a kernel gives up the lock
// of a killed process an instant after it closed its sockets.
func (b *bench) released(name string) {
	for deadline := time.Now().Add(20 * time.Second); b.book.Held(name); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("sandbox %s is still held", name)
		}
	}
}

func command(argv ...string) supervise.Command {
	return supervise.Command{Start: wire.Start{Argv: argv}}
}

func wantFault(t *testing.T, err error, code fault.Code, parts ...string) {
	t.Helper()
	if err == nil || fault.CodeOf(err) != code {
		t.Fatalf("got error %v (code %s), want code %s", err, fault.CodeOf(err), code)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestLife(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.wantState("one", sandbox.Starting) // it belongs to this process until it was started
	r := b.start("one")
	if r.State != record.Created || r.Boot == nil || r.Boot.Kernel != "6.12" || r.VMMPid == 0 || r.Started.IsZero() {
		t.Errorf("record after the start: %+v", r)
	}
	b.wantState("one", sandbox.Running)
	if out, status := b.exec("one", "hello", "cat"); out != "hello" || status != 0 {
		t.Errorf("cat: %q, %d", out, status)
	}
	if _, status := b.exec("one", "", "exit", "255"); status != 255 {
		t.Errorf("exit 255 gave %d", status)
	}
	b.exec("one", "", "keep", "precious")
	_, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{})
	wantFault(t, err, fault.Conflict, "running already")
	wantFault(t, b.m.Delete(t.Context(), "one", sandbox.DeleteOptions{}), fault.Conflict, "running")
	if err := b.m.Stop(t.Context(), "one", time.Minute); err != nil {
		t.Fatal(err)
	}
	s := b.wantState("one", sandbox.Stopped)
	if s.Stopped.IsZero() || s.VMMPid != 0 || s.LastError != "" {
		t.Errorf("record after the stop: %+v", s.Record)
	}
	b.nothingIn("run")
	if err := b.m.Stop(t.Context(), "one", time.Minute); err != nil {
		t.Errorf("stopping a stopped sandbox: %v", err)
	}
	_, err = b.m.Connect(t.Context(), "one")
	wantFault(t, err, fault.NotRunning, `"one" is not running`)

	b.start("one")
	if out, _ := b.exec("one", "", "kept"); out != "precious" {
		t.Errorf("after a restart the disk holds %q", out)
	}
	if err := b.m.Delete(t.Context(), "one", sandbox.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	b.nothingIn("sandboxes")
	_, err = b.m.Get("one")
	wantFault(t, err, fault.NotFound)
}

func TestKilledSupervisor(t *testing.T) {
	b := newBench(t)
	b.create("one")
	r := b.start("one")
	b.exec("one", "", "keep", "precious")
	c, err := b.m.Connect(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := c.Done()
	if err := syscall.Kill(r.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-done
	b.released("one")
	s := b.wantState("one", sandbox.Stopped)
	if !strings.Contains(s.LastError, "unexpectedly") {
		t.Errorf("last error %q", s.LastError)
	}
	if _, err := os.Stat(filepath.Join(b.book.Folder("one").RunDir(), supervise.SocketName)); err != nil {
		t.Fatalf("no stale socket to test with: %v", err)
	}
	b.start("one")
	if out, _ := b.exec("one", "", "kept"); out != "precious" {
		t.Errorf("the disk holds %q", out)
	}
}

func TestMachineDies(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	c, err := b.m.Connect(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := c.Done()
	_, err = c.Exec(t.Context(), command("crash"), supervise.Streams{})
	wantFault(t, err, fault.NotRunning, "stopped")
	<-done
	if s := b.wantState("one", sandbox.Stopped); !strings.Contains(s.LastError, "signal: killed") {
		t.Errorf("last error %q", s.LastError)
	}
	b.nothingIn("run")
}

func TestGuestPowersOff(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	c, err := b.m.Connect(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := c.Done()
	_, err = c.Exec(t.Context(), command("poweroff"), supervise.Streams{})
	wantFault(t, err, fault.NotRunning, `sandbox "one" was stopped`)
	<-done
	if s := b.wantState("one", sandbox.Stopped); s.LastError != "" || s.Stopped.IsZero() {
		t.Errorf("after power-off: %+v", s.Record)
	}
}

func TestReboot(t *testing.T) {
	b := newBench(t)
	b.create("one")
	first := b.start("one")
	c, err := b.m.Connect(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		_, err := c.Exec(t.Context(), command("reboot"), supervise.Streams{})
		wantFault(t, err, fault.NotRunning, `sandbox "one" was restarted`)
		var out bytes.Buffer
		if status, err := c.Exec(t.Context(), command("cat"), supervise.Streams{In: strings.NewReader("again"), Out: &out}); err != nil || status != 0 || out.String() != "again" {
			t.Fatalf("after a reboot: %d, %v, %q", status, err, &out)
		}
	}
	if s := b.wantState("one", sandbox.Running); s.Pid != first.Pid {
		t.Errorf("supervisor %d became %d", first.Pid, s.Pid)
	}
}

func TestStubbornGuest(t *testing.T) {
	b := newBench(t)
	b.create("one", guesttest.Stubborn)
	b.start("one")
	if err := b.m.Stop(t.Context(), "one", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	b.wantState("one", sandbox.Stopped)
}

// TestBadGuests starts guests that never get ready: a new sandbox is gone
// afterwards, one that had run is stopped.
func TestBadGuests(t *testing.T) {
	for _, c := range []struct {
		word  string
		code  fault.Code
		parts []string
	}{
		{guesttest.Hang, fault.Boot, []string{"not ready within 300ms", "one", "two \nthree"}},
		{guesttest.Die, fault.Boot, []string{"signal: killed", "going down"}},
		{guesttest.Fail, fault.Boot, []string{"no scratch"}},
		{guesttest.WrongKey, fault.Trust, []string{"host key"}},
	} {
		t.Run(c.word, func(t *testing.T) {
			b := newBench(t)
			b.t = t
			parts := c.parts
			if c.word == guesttest.Hang {
				parts = []string{"not ready within 300ms", "one", "two", "three"}
			}
			b.create("new", c.word)
			_, err := b.m.Start(t.Context(), "new", sandbox.StartOptions{Timeout: 300 * time.Millisecond})
			wantFault(t, err, c.code, parts...)
			if strings.Contains(fault.HintOf(err), "console") {
				t.Errorf("the hint sends the user to what is removed: %q", fault.HintOf(err))
			}
			if strings.ContainsAny(err.Error(), "\x1b\a\x00") {
				t.Errorf("the error holds control characters: %q", err)
			}
			b.nothingIn("sandboxes")
			b.nothingIn("run")

			b.create("old")
			r := b.start("old")
			if err := b.m.Stop(t.Context(), "old", time.Minute); err != nil {
				t.Fatal(err)
			}
			r, _ = b.book.Read("old")
			r.Image.CommandLine = c.word
			if err := b.book.Write(r); err != nil {
				t.Fatal(err)
			}
			_, err = b.m.Start(t.Context(), "old", sandbox.StartOptions{Timeout: 300 * time.Millisecond})
			wantFault(t, err, c.code, parts...)
			if c.code == fault.Boot && c.word != guesttest.Fail && !strings.Contains(err.Error(), b.book.Folder("old").Console()) {
				t.Errorf("the error does not name the console's log: %v", err)
			}
			s := b.wantState("old", sandbox.Stopped)
			if s.LastError == "" {
				t.Error("no last error")
			}
			b.nothingIn("run")
		})
	}
}

func TestCancelledStart(t *testing.T) {
	b := newBench(t)
	b.create("new", guesttest.Hang)
	b.create("next", guesttest.Hang)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		b.waitFor("new", "three")
		cancel()
	}()
	_, err := b.m.Start(ctx, "new", sandbox.StartOptions{Timeout: time.Minute})
	wantFault(t, err, fault.Interrupted)
	if _, err := b.m.Start(ctx, "next", sandbox.StartOptions{Timeout: time.Minute}); fault.CodeOf(err) != fault.Interrupted {
		t.Errorf("a start that was cancelled before: %v", err)
	}
	b.nothingIn("sandboxes")
	b.nothingIn("run")
}

// waitFor waits until the console log of a sandbox says text.
func (b *bench) waitFor(name, text string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if data, _ := os.ReadFile(b.book.Folder(name).Console()); strings.Contains(string(data), text) {
			return
		}
	}
	b.t.Errorf("the console of %s never said %q", name, text)
}

// TestKilledStarter kills the program that starts a sandbox before it is ready.
func TestKilledStarter(t *testing.T) {
	b := newBench(t)
	b.create("old")
	b.start("old")
	if err := b.m.Stop(t.Context(), "old", time.Minute); err != nil {
		t.Fatal(err)
	}
	r, _ := b.book.Read("old")
	r.Image.CommandLine = guesttest.Hang
	if err := b.book.Write(r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "new"} {
		cmd := b.run.Command(context.Background(), process.Self, "start", b.home, name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		b.waitFor(name, "three")
		b.wantState(name, sandbox.Starting)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.released(name) // the supervisor cleans up by itself
	}
	b.wantState("old", sandbox.Stopped)
	if names, _ := b.m.Names(); fmt.Sprint(names) != "[old]" {
		t.Errorf("left: %v", names)
	}
	b.nothingIn("run")
}

func TestNameTaken(t *testing.T) {
	b := newBench(t)
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			m := openBench(b.home).m
			_, err := m.Create(context.Background(), b.spec("one"))
			if err == nil {
				b.m = m // its locks are its own
			}
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		if err := <-results; err == nil {
			won++
		} else if fault.CodeOf(err) != fault.Conflict {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d creations of one name succeeded", won)
	}
}

func TestCreateFails(t *testing.T) {
	b := newBench(t)
	small := b.spec("one")
	small.DiskBytes = 1
	for name, spec := range map[string]sandbox.Spec{"disk": small, "name": b.spec("../x")} {
		if _, err := b.m.Create(t.Context(), spec); fault.CodeOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.nothingIn("sandboxes")
}

func TestMissingImage(t *testing.T) {
	b := newBench(t)
	spec := b.spec("one")
	spec.Image.Layers[0].Path = filepath.Join(b.home, "gone.ext4")
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	_, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{Timeout: time.Minute})
	wantFault(t, err, fault.NotFound, "gone.ext4")
	b.nothingIn("sandboxes")
}

// TestRecover finds what killed programs left.
func TestRecover(t *testing.T) {
	b := newBench(t)
	killed := openBench(b.home) // its sandbox is being made, and locked
	killed.t = t
	killed.create("making")
	lock, err := b.book.Create("empty") // killed before the first record
	if err == nil {
		err = lock.Release()
	}
	if err != nil {
		t.Fatal(err)
	}
	b.create("half")
	b.create("good")
	b.start("good")
	r, _ := b.book.Read("half") // killed while creating: the lock is free
	if err := errors.Join(b.m.Delete(t.Context(), "half", sandbox.DeleteOptions{})); err != nil {
		t.Fatal(err)
	}
	if lock, err = b.book.Create("half"); err == nil {
		err = errors.Join(b.book.Write(r), lock.Release())
	}
	if err != nil {
		t.Fatal(err)
	}
	b.wantState("half", sandbox.Broken)
	if lock, err = b.book.Create("lost"); err == nil { // somebody deleted the record: the disk may be dear
		err = errors.Join(os.WriteFile(b.book.Folder("lost").Scratch(), []byte("work"), 0o600), lock.Release())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.m.Recover(); err != nil {
		t.Fatal(err)
	}
	names, _ := b.m.Names()
	if fmt.Sprint(names) != "[good lost making]" {
		t.Errorf("left: %v", names)
	}
	killed.start("making") // it was not touched
}

func TestPack(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	if err := b.m.Stop(t.Context(), "one", time.Minute); err != nil {
		t.Fatal(err)
	}
	blank := filepath.Join(b.home, "blank")
	if err := errors.Join(os.WriteFile(blank, nil, 0o600), os.Truncate(blank, 1<<20)); err != nil {
		t.Fatal(err)
	}
	size, err := b.m.Pack(t.Context(), "one", blank)
	if err != nil || size != 3000 {
		t.Fatalf("packed %d bytes, %v", size, err)
	}
	data, _ := os.ReadFile(blank)
	if string(data) != strings.Repeat("packed", 500) {
		t.Errorf("the layer has %d bytes", len(data))
	}
	b.wantState("one", sandbox.Stopped)
	b.start("one")
}

func TestManySideBySide(t *testing.T) {
	b := newBench(t)
	results := make(chan error, 4)
	for i := range cap(results) {
		go func() {
			name := fmt.Sprintf("box-%d", i)
			_, err := b.m.Create(t.Context(), b.spec(name))
			if err == nil {
				_, err = b.m.Start(t.Context(), name, sandbox.StartOptions{Timeout: time.Minute})
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	all, err := b.m.List()
	if err != nil || len(all) != cap(results) {
		t.Fatalf("%d sandboxes, %v", len(all), err)
	}
	for _, s := range all {
		if s.State != sandbox.Running {
			t.Errorf("%s is %s", s.Name, s.State)
		}
	}
}

// TestConsoleFlood checks that a guest cannot fill the host's disk.
func TestConsoleFlood(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	for range 5 {
		b.exec("one", "", "console", strings.Repeat("x", 999)+"\n")
	}
	info, err := os.Stat(b.book.Folder("one").Console())
	if err != nil || info.Size() > 2<<20 || info.Size() < 1<<20-2000 {
		t.Errorf("the console log has %d bytes, %v", info.Size(), err)
	}
}

func TestBrokenRecord(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	if err := b.m.Stop(t.Context(), "one", time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.book.Folder("one").Record(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := b.wantState("one", sandbox.Broken); !strings.Contains(s.LastError, "damaged") {
		t.Errorf("last error %q", s.LastError)
	}
	if _, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{}); err == nil {
		t.Error("a sandbox without a record started")
	}
	if err := b.m.Delete(t.Context(), "one", sandbox.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
}

// TestStopWhileStarting stops a sandbox that is not ready yet.
func TestStopWhileStarting(t *testing.T) {
	b := newBench(t)
	b.create("one", guesttest.Hang)
	started := make(chan error, 1)
	go func() {
		_, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{Timeout: time.Minute})
		started <- err
	}()
	b.waitFor("one", "three")
	if err := openBench(b.home).m.Stop(t.Context(), "one", time.Minute); err != nil {
		t.Error(err)
	}
	wantFault(t, <-started, fault.Interrupted, "stopped before it was ready")
	b.nothingIn("sandboxes")
}

// TestDeleteWhileStarting deletes a sandbox that is not ready yet, at its first start
// and at a later one: the start ends with what happened, and nothing is left.
func TestDeleteWhileStarting(t *testing.T) {
	for _, first := range []bool{true, false} {
		b := newBench(t)
		b.create("one", guesttest.Hang)
		if !first {
			r, err := b.book.Read("one")
			r.State = record.Created
			if err := errors.Join(err, b.book.Write(r)); err != nil {
				t.Fatal(err)
			}
		}
		started := make(chan error, 1)
		go func() {
			_, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{Timeout: time.Minute})
			started <- err
		}()
		b.waitFor("one", "three")
		if err := openBench(b.home).m.Delete(t.Context(), "one", sandbox.DeleteOptions{Force: true, Grace: time.Minute}); err != nil {
			t.Errorf("first start %v: %v", first, err)
		}
		wantFault(t, <-started, fault.Interrupted, "stopped before it was ready")
		b.nothingIn("sandboxes")
	}
}

// TestStartedTwice starts one sandbox from several programs at once.
func TestStartedTwice(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	if err := b.m.Stop(t.Context(), "one", time.Minute); err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 4)
	for range cap(results) {
		go func() {
			_, err := openBench(b.home).m.Start(t.Context(), "one", sandbox.StartOptions{Timeout: time.Minute})
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		if err := <-results; err == nil {
			won++
		} else if fault.CodeOf(err) != fault.Conflict {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d starts succeeded", won)
	}
	b.wantState("one", sandbox.Running)
}
