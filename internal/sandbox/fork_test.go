package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/supervise/guesttest"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestFork makes two sandboxes of a running one, whose guest remembers the keys of the
// first until it is told others: the host pins those of the forks.
func TestFork(t *testing.T) {
	b := newBench(t)
	spec := b.spec("one")
	spec.Egress, spec.Directory = egress.Policy{Mode: egress.Restricted}, "/src"
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	b.start("one")
	if err := os.WriteFile(b.book.Folder("one").Scratch(), []byte("its disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := b.m.Fork(t.Context(), "one", sandbox.Fork{Names: []string{"two", "three"}})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, name := range []string{"one", "two", "three"} {
		s, err := b.m.Get(name)
		if err != nil || s.State != sandbox.Running || s.Record.State != record.Created {
			t.Errorf("%s is %s, %v", name, s.State, err)
		}
		ids[s.ID] = true
		if s.Egress.Mode != egress.Restricted || (s.Directory == "") != (name != "one") {
			t.Errorf("%s has the policy %+v and the directory %q", name, s.Egress, s.Directory)
		}
		if out, status := b.exec(name, "hello", "cat"); out != "hello" || status != 0 {
			t.Errorf("%s answers %q, %d", name, out, status)
		}
		folder := b.book.Folder(name)
		if text, err := os.ReadFile(folder.Scratch()); err != nil || !strings.HasPrefix(string(text), "its disk") {
			t.Errorf("the disk of %s: %v", name, err)
		}
		if _, err := os.Lstat(folder.Snapshot()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a snapshot is left in %s: %v", name, err)
		}
	}
	if len(all) != 2 || len(ids) != 3 {
		t.Errorf("%d forks, %d identities", len(all), len(ids))
	}
	one, _ := os.ReadFile(b.book.Folder("one").HostKey())
	two, _ := os.ReadFile(b.book.Folder("two").HostKey())
	if string(one) == string(two) {
		t.Error("a fork has the host key of the first")
	}
}

// TestForkRefuses leaves the running sandbox as it is, and nothing else.
func TestForkRefuses(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.create("taken")
	if _, err := b.m.Fork(t.Context(), "one", sandbox.Fork{Names: []string{"two"}}); fault.CodeOf(err) != fault.NotRunning {
		t.Errorf("a stopped sandbox: %v", err)
	}
	given := &wire.Credentials{Env: map[string]string{"TOKEN": "secret"}}
	if _, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{Timeout: time.Minute, Credentials: given}); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		fork sandbox.Fork
		code fault.Code
		want string
	}{
		"with secrets":   {t.Context(), sandbox.Fork{Names: []string{"two"}}, fault.Conflict, "TOKEN"},
		"name is taken":  {t.Context(), sandbox.Fork{Names: []string{"two", "taken"}, Secrets: true}, fault.Conflict, "taken"},
		"same name":      {t.Context(), sandbox.Fork{Names: []string{"two", "two"}, Secrets: true}, fault.Conflict, "two"},
		"no name at all": {t.Context(), sandbox.Fork{Names: []string{"two", "A/.."}, Secrets: true}, fault.Usage, "A/.."},
		"interrupted":    {cancelled, sandbox.Fork{Names: []string{"two"}, Secrets: true}, fault.Interrupted, ""},
	} {
		_, err := b.m.Fork(c.ctx, "one", c.fork)
		if fault.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v (%s)", name, err, fault.CodeOf(err))
		}
		if _, err := os.Lstat(b.book.Folder("two").Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a part of a fork is left: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(b.home, "sandboxes", "taken")); err != nil {
		t.Errorf("a sandbox that was there before: %v", err)
	}
	if out, _ := b.exec("one", "hello", "cat"); out != "hello" {
		t.Errorf("the running one answers %q", out)
	}
}

// TestForkTakesSourcesAlong: what is kept from a sandbox is for its forks, theirs and
// what is restored of it as well, from their next start on.
func TestForkTakesSourcesAlong(t *testing.T) {
	b := newBench(t)
	b.create("one")
	sources := []string{"TOKEN=env:TOKEN"}
	if _, err := b.m.Start(t.Context(), "one", sandbox.StartOptions{Timeout: time.Minute, Sources: sources}); err != nil {
		t.Fatal(err)
	}
	_, first := b.m.Fork(t.Context(), "one", sandbox.Fork{Names: []string{"two"}})
	_, second := b.m.Fork(t.Context(), "two", sandbox.Fork{Names: []string{"three"}})
	_, kept := b.m.Snapshot(t.Context(), "one", "ready", false)
	_, restored := b.m.Restore(t.Context(), "ready", sandbox.Fork{Names: []string{"four"}})
	if err := errors.Join(first, second, kept, restored); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three", "four"} {
		if s, err := b.m.Get(name); err != nil || !slices.Equal(s.Credentials, sources) {
			t.Errorf("%s remembers %q, %v", name, s.Credentials, err)
		}
	}
	_ = b.m.Stop(t.Context(), "two", time.Minute)
	b.start("two")
	if s, _ := b.m.Get("two"); len(s.Credentials) > 0 {
		t.Errorf("a start without sources remembers %q", s.Credentials)
	}
}

// plainDriver has machines that can be started and ended, and no more.
type plainDriver struct{}

func (plainDriver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	d, err := guesttest.Driver(record.Record{})
	if err != nil {
		return nil, err
	}
	m, err := d.Start(ctx, spec)
	return struct{ vmm.Machine }{m}, err
}

// TestForkWhereMachinesCannotBeKept is refused before the guest is told anything: it
// would let nobody in.
func TestForkWhereMachinesCannotBeKept(t *testing.T) {
	b := newBench(t)
	spec := b.spec("one")
	spec.VMM = "plain"
	if _, err := b.m.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	b.start("one")
	c, err := b.m.Connect(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stays := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), command("sleep"), supervise.Streams{})
		stays <- err
	}()
	_, forked := b.m.Fork(t.Context(), "one", sandbox.Fork{Names: []string{"two"}})
	_, kept := b.m.Snapshot(t.Context(), "one", "kept", false)
	for _, err := range []error{forked, kept} {
		if fault.CodeOf(err) != fault.Conflict || !strings.Contains(err.Error(), "cannot be kept") {
			t.Errorf("refused with %v", err)
		}
	}
	if out, _ := b.exec("one", "hello", "cat"); out != "hello" {
		t.Errorf("it answers %q", out)
	}
	select {
	case err := <-stays:
		t.Errorf("a program that ran was ended: %v", err)
	default:
	}
	if err := b.m.Stop(t.Context(), "one", 0); err != nil {
		t.Error(err)
	}
	<-stays
	b.nothingBut("one")
}

// TestForkInterrupted interrupts forks at several moments: all sandboxes are there or
// none, and the first goes on.
func TestForkInterrupted(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	names := []string{"two", "three"}
	for _, after := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, 250 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := b.m.Fork(ctx, "one", sandbox.Fork{Names: names})
		cancel()
		t.Logf("after %v: %v", after, err)
		for _, name := range names {
			_, there := os.Lstat(b.book.Folder(name).Dir())
			if (there == nil) != (err == nil) {
				t.Errorf("interrupted after %v (%v): %s: %v", after, err, name, there)
			}
			if err != nil {
				continue
			}
			if err := b.m.Delete(t.Context(), name, sandbox.DeleteOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}
		if out, _ := b.exec("one", "hello", "cat"); out != "hello" {
			t.Errorf("interrupted after %v: the first answers %q", after, out)
		}
	}
	b.nothingBut("one")
}

// TestForkKilled kills a fork at several moments. What was ready by then is a sandbox
// like any other, what was not is gone after the next command has looked, and the first
// goes on.
func TestForkKilled(t *testing.T) {
	b := newBench(t)
	b.create("one")
	b.start("one")
	for _, after := range []time.Duration{10 * time.Millisecond, 30 * time.Millisecond, 60 * time.Millisecond, 120 * time.Millisecond, 240 * time.Millisecond} {
		forking := b.run.Command(t.Context(), process.Self, "fork", b.home)
		if err := forking.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = forking.Process.Kill()
		_ = forking.Wait()
		var ready []string
		for _, name := range []string{"two", "three"} {
			if b.settles(name) {
				ready = append(ready, name)
			}
		}
		t.Logf("killed after %v: ready are %v", after, ready)
		b.nothingBut(append(ready, "one")...)
		for _, name := range append(ready, "one") {
			if out, _ := b.exec(name, "hello", "cat"); out != "hello" {
				t.Errorf("killed after %v: %s answers %q", after, name, out)
			}
		}
		for _, name := range ready {
			if err := b.m.Delete(t.Context(), name, sandbox.DeleteOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}
	}
}

// settles waits until a fork that its maker left is ready, or gone.
func (b *bench) settles(name string) (ready bool) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := b.m.Recover(); err != nil {
			b.t.Fatal(err)
		}
		s, err := b.m.Get(name)
		if fault.CodeOf(err) == fault.NotFound {
			return false
		}
		if s.State == sandbox.Running && s.Record.State == record.Created {
			return true
		}
	}
	b.t.Fatalf("%s is neither ready nor gone", name)
	return false
}

// TestForkLeavesNoMemory finds a snapshot that a killed fork left at the next start.
func TestForkLeavesNoMemory(t *testing.T) {
	b := newBench(t)
	b.create("one")
	left := b.book.Folder("one").Snapshot()
	if err := os.MkdirAll(filepath.Join(left, "machine"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.start("one")
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// nothingBut wants no other sandbox, and nothing of one.
func (b *bench) nothingBut(names ...string) {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.home, "sandboxes"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(names, e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			b.t.Errorf("left: %s", e.Name())
		}
	}
}
