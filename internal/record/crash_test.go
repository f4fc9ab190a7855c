package record

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smolvm/smolvm/internal/fault"
)

// TestMain runs this program again as the process that a test kills.
func TestMain(m *testing.M) {
	if job := os.Getenv("RECORD_TEST_JOB"); job != "" {
		os.Exit(victim(job, os.Getenv("RECORD_TEST_HOME")))
	}
	os.Exit(m.Run())
}

// victim does a job on sandbox "one" of a home until it is killed.
func victim(job, home string) int {
	b, err := Open(home)
	if err != nil {
		return 1
	}
	die := func() error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	switch step, writes := strings.CutPrefix(job, "write until "); {
	case writes:
		b.reached = func(s string) error {
			if s == step {
				return die()
			}
			return nil
		}
		r := sample(b, "one")
		r.LastError = "new"
		_ = b.Write(r)
	case job == "lock":
		lock, err := b.Lock("one")
		if err != nil {
			return 1
		}
		_, _ = os.Stdout.WriteString("locked\n")
		time.Sleep(time.Minute) // a process in which nothing can happen any more would end itself
		runtime.KeepAlive(lock)
	}
	return 0
}

func start(t *testing.T, b *Book, job string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RECORD_TEST_JOB="+job, "RECORD_TEST_HOME="+b.home)
	return cmd
}

// temps are the temporary files of a sandbox's folder.
func temps(t *testing.T, b *Book) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(b.Folder("one").Dir(), ".record.json*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestKilledWhileWriting kills a writer between any two steps. The record is the
// old one or the new one; the next write works and clears up.
func TestKilledWhileWriting(t *testing.T) {
	for step, want := range map[string]string{"temp": "old", "written": "old", "renamed": "new"} {
		t.Run(step, func(t *testing.T) {
			b, old := written(t)
			cmd := start(t, b, "write until "+step)
			if err := cmd.Run(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the writer was not killed: %v", err)
			}
			if want == "old" && len(temps(t, b)) != 1 {
				t.Errorf("the killed writer left %q", temps(t, b))
			}
			expect(t, b, want)
			if err := b.Write(old); err != nil {
				t.Fatal(err)
			}
			expect(t, b, "old")
			if left := temps(t, b); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestPowerLoss does to the folder what a power loss may do to what was not
// synced: contents of the temporary file vanish, a rename is undone.
func TestPowerLoss(t *testing.T) {
	b, old := written(t)
	_ = start(t, b, "write until written").Run()
	left := temps(t, b)
	if len(left) != 1 || os.Truncate(left[0], 0) != nil {
		t.Fatalf("the killed writer left %q", left)
	}
	expect(t, b, "old")

	before, err := os.ReadFile(b.Folder("one").Record())
	if err != nil {
		t.Fatal(err)
	}
	_ = start(t, b, "write until renamed").Run()
	expect(t, b, "new")
	if err := errors.Join(os.Rename(b.Folder("one").Record(), left[0]), os.WriteFile(b.Folder("one").Record(), before, 0o600)); err != nil {
		t.Fatal(err)
	}
	expect(t, b, "old")
	if err := b.Write(old); err != nil || len(temps(t, b)) > 0 {
		t.Errorf("write after a power loss: %v, left %q", err, temps(t, b))
	}
}

func TestDiskFull(t *testing.T) {
	for _, step := range []string{"temp", "written"} {
		b, r := written(t)
		b.reached = func(s string) error {
			if s == step {
				return syscall.ENOSPC
			}
			return nil
		}
		r.LastError = "new"
		err := b.Write(r)
		wantFault(t, err, fault.Storage, "one", "no space left")
		expect(t, b, "old")
		if left := temps(t, b); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// written makes sandbox "one" whose record says "old".
func written(t *testing.T) (*Book, Record) {
	t.Helper()
	b := newBook(t, "")
	r := create(t, b, "one")
	r.LastError = "old"
	if err := b.Write(r); err != nil {
		t.Fatal(err)
	}
	return b, r
}

func expect(t *testing.T, b *Book, want string) {
	t.Helper()
	got, err := b.Read("one")
	if err != nil || got.LastError != want {
		t.Fatalf("the record says %q, %v; want %q", got.LastError, err, want)
	}
}

// TestLockEndsWithItsProcess kills the holder of a lock.
func TestLockEndsWithItsProcess(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "one")
	cmd := start(t, b, "lock")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the holder said %q, %v", line, err)
	}
	if !b.Held("one") {
		t.Error("a held lock is not seen")
	}
	_, err = b.Lock("one")
	wantFault(t, err, fault.Conflict, "in use")
	wantFault(t, b.Remove("one"), fault.Conflict, "in use")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if b.Held("one") {
		t.Error("the lock outlived its process")
	}
	if err := b.Remove("one"); err != nil {
		t.Error(err)
	}
}

// TestInterruptedCreate finds a folder without a record, and removes it.
func TestInterruptedCreate(t *testing.T) {
	b := newBook(t, "")
	lock, err := b.Create("one")
	if err != nil {
		t.Fatal(err)
	}
	if !b.Held("one") {
		t.Error("a sandbox that is being made can be taken for a left-over")
	}
	if _, err = b.Read("one"); !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove("one"); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, b)
}

// TestInterruptedRemove sweeps what a killed remover left.
func TestInterruptedRemove(t *testing.T) {
	b := newBook(t, "")
	create(t, b, "one")
	if err := os.Rename(b.Folder("one").Dir(), filepath.Join(b.dir, removedPrefix+"one")); err != nil {
		t.Fatal(err)
	}
	if names, err := b.Names(); err != nil || len(names) > 0 {
		t.Errorf("half removed sandboxes are listed: %q, %v", names, err)
	}
	create(t, b, "one") // the name is free again
	if err := b.Remove("one"); err != nil {
		t.Errorf("remove over the left-over: %v", err)
	}
	create(t, b, "two")
	if err := os.Rename(b.Folder("two").Dir(), filepath.Join(b.dir, removedPrefix+"two")); err != nil {
		t.Fatal(err)
	}
	if err := b.Sweep(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, b)
}

// nothingLeft fails unless the book's folder holds its gate alone.
func nothingLeft(t *testing.T, b *Book) {
	t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if d := cmp.Diff([]string{".gate"}, got); d != "" {
		t.Error(d)
	}
}
