package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// family is a real sandbox and the forks of it, all with one folder of this computer.
type family struct {
	*bench
	shared string            // the folder, at /shared in each
	boot   string            // the boot that all of them go on with
	seen   map[string]string // who has what of its own
}

// bootTime bounds a boot where KVM interprets the kernel.
const bootTime = 4 * time.Minute

// newFamily fills the folder that the first one is to have.
func newFamily(t *testing.T) *family {
	t.Helper()
	f := &family{shared: t.TempDir(), seen: map[string]string{}}
	if err := os.WriteFile(filepath.Join(f.shared, "open"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

// mount is the folder's.
func (f *family) mount() []record.Mount { return []record.Mount{{Host: f.shared, Guest: "/shared"}} }

// tellOfFailure shows what supervisors and guests said, where the test fails.
func (f *family) tellOfFailure() {
	f.t.Cleanup(func() {
		if !f.t.Failed() {
			return
		}
		names, _ := f.m.Names()
		for _, name := range names {
			log, _ := os.ReadFile(f.book.Folder(name).Log())
			console, _ := os.ReadFile(f.book.Folder(name).Console())
			f.t.Logf("%s: supervisor:\n%s\nconsole:\n%s", name, log, console)
		}
	})
}

// ask runs a program that has to succeed, and gives what it printed.
func (f *family) ask(name string, argv ...string) string {
	f.t.Helper()
	out, status := f.exec(name, "", argv...)
	if status != 0 {
		f.t.Errorf("%s: %q ended with %d: %s", name, argv, status, out)
	}
	return strings.TrimSpace(out)
}

// openInMount keeps a file of the mount open and tells, each time that somebody writes
// to the pipe go, how reading it goes.
const openInMount = `exec 3</shared/open; echo $$ >/tmp/reader; read -r word </tmp/go
if cat <&3 >/dev/null 2>/tmp/why; then echo read; else cat /tmp/why; fi >/tmp/read`

// prepare gives the first one what forks are looked at for: a file on its disk, and a
// process that has a file of the mount open.
func (f *family) prepare(name string) {
	f.t.Helper()
	f.ask(name, "sh", "-c", "mkfifo /tmp/reader /tmp/go /tmp/read; setsid -f sh -c '"+openInMount+"' </dev/null >/dev/null 2>&1; cat /tmp/reader")
	f.boot = f.ask(name, "cat", "/proc/sys/kernel/random/boot_id")
	f.ask(name, "sh", "-c", "echo on its disk > ~/file; sync")
}

// fork makes forks, whose source goes on.
func (f *family) fork(from string, names ...string) {
	f.t.Helper()
	begun := time.Now()
	all, err := f.m.Fork(f.t.Context(), from, sandbox.Fork{Names: names})
	if err != nil {
		f.t.Fatal(err)
	}
	if len(all) != len(names) {
		f.t.Fatalf("%d forks, want %d", len(all), len(names))
	}
	f.t.Logf("%d forks in %v", len(names), time.Since(begun).Round(time.Millisecond))
}

// lookAt checks that a member goes on where the first one was, as somebody else, and
// with the mount.
func (f *family) lookAt(name string) {
	f.t.Helper()
	if got := f.ask(name, "cat", "/proc/sys/kernel/random/boot_id"); got != f.boot {
		f.t.Errorf("%s booted: %s, the first %s", name, got, f.boot)
	}
	if got := f.ask(name, "sh", "-c", "cat ~/file"); got != "on its disk" {
		f.t.Errorf("the disk of %s has %q", name, got)
	}
	f.differs("machine-id", name, f.ask(name, "cat", "/etc/machine-id"))
	f.differs("host name", name, f.ask(name, "hostname"))
	f.differs("random bytes", name, f.ask(name, "sh", "-c", "head -c 16 /dev/urandom | od -An -tx1"))
	key, err := os.ReadFile(f.book.Folder(name).HostKeyPublic())
	if err != nil {
		f.t.Error(err)
	}
	f.differs("host key", name, string(key)) // the host pinned it: ask would not have worked else
	f.sharing(name)
}

// differs notes what a member has of its own.
func (f *family) differs(what, name, value string) {
	f.t.Helper()
	if other, there := f.seen[what+value]; there || value == "" {
		f.t.Errorf("%s and %s have the same %s: %q", other, name, what, value)
	}
	f.seen[what+value] = name
}

// sharing checks the mount of a member: anew in both directions, while what was open
// before the fork has ended.
func (f *family) sharing(name string) {
	f.t.Helper()
	if got := f.ask(name, "cat", "/shared/open"); got != "from the host" {
		f.t.Errorf("%s reads %q in the mount", name, got)
	}
	f.ask(name, "sh", "-c", "hostname > /shared/$(hostname)")
	if text, err := os.ReadFile(filepath.Join(f.shared, name)); err != nil || strings.TrimSpace(string(text)) != name {
		f.t.Errorf("what %s wrote to the mount: %q, %v", name, text, err)
	}
	if got := f.ask(name, "timeout", "60", "sh", "-c", "echo >/tmp/go; cat /tmp/read"); got == "read" || got == "" {
		f.t.Errorf("%s reads what was open in the mount before: %q", name, got)
	} else {
		f.t.Logf("%s: a file that was open in the mount: %s", name, got)
	}
}

// keptAndRestored keeps a member, deletes it, and runs on from its snapshot as another
// sandbox.
func (f *family) keptAndRestored(name, back string) {
	f.t.Helper()
	boot, machine := f.ask(name, "cat", "/proc/sys/kernel/random/boot_id"), f.ask(name, "cat", "/etc/machine-id")
	f.ask(name, "sh", "-c", "echo kept > ~/file")
	begun := time.Now()
	kept, err := f.m.Snapshot(f.t.Context(), name, "kept", false)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Logf("kept in %v: the snapshot takes %d MB", time.Since(begun).Round(time.Millisecond), kept.OnDisk/1e6)
	f.ask(name, "sh", "-c", "echo later > ~/file")
	if err := f.m.Delete(f.t.Context(), name, sandbox.DeleteOptions{Force: true}); err != nil {
		f.t.Fatal(err)
	}
	begun = time.Now()
	if _, err := f.m.Restore(f.t.Context(), "kept", sandbox.Fork{Names: []string{back}}); err != nil {
		f.t.Fatal(err)
	}
	f.t.Logf("restored in %v", time.Since(begun).Round(time.Millisecond))
	if got := f.ask(back, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		f.t.Errorf("it booted: %s, was %s", got, boot)
	}
	if got := f.ask(back, "cat", "/etc/machine-id"); got == machine {
		f.t.Error("it has the machine-id of the one that was kept")
	}
	if got := f.ask(back, "sh", "-c", "cat ~/file; cat /shared/open"); got != "kept\nfrom the host" {
		f.t.Errorf("its disk and its mount have %q", got)
	}
}

// startsAnew starts a fork that ended: it boots like any other sandbox, as who it was.
func (f *family) startsAnew(name string, end func()) {
	f.t.Helper()
	before := f.ask(name, "cat", "/etc/machine-id")
	end()
	begun := time.Now()
	f.startWithin(name, bootTime)
	f.t.Logf("%s started anew in %v", name, time.Since(begun).Round(time.Millisecond))
	if got := f.ask(name, "cat", "/etc/machine-id"); got != before {
		f.t.Errorf("machine-id %s after a restart, want %s", got, before)
	}
	if got := f.ask(name, "cat", "/proc/sys/kernel/random/boot_id"); got == f.boot {
		f.t.Error("it did not boot")
	}
	if got := f.ask(name, "sh", "-c", "cat ~/file"); got != "on its disk" {
		f.t.Errorf("its disk has %q after a restart", got)
	}
}
