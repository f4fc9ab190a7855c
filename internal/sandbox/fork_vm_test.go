package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// openInMount keeps a file of the mount open and notes, each time that the file go
// appears beside it, how reading it goes.
const openInMount = `exec 3</shared/open; echo $$ > /tmp/reader.new; mv /tmp/reader.new /tmp/reader
while [ ! -e /tmp/go ]; do sleep 0.1; done
if cat <&3 >/dev/null 2>/tmp/why; then echo read; else cat /tmp/why; fi > /tmp/read.new; mv /tmp/read.new /tmp/read`

// until waits for a file in the sandbox and prints it.
const until = `for i in $(seq 600); do [ -e "$0" ] && exec cat "$0"; sleep 0.1; done; exit 1`

// TestVMFork forks a real sandbox twice. The forks have its memory, and an identity and
// random numbers of their own; all three go on with the same mount.
func TestVMFork(t *testing.T) {
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "open"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, _ := newVM(t, func(spec *sandbox.Spec) {
		spec.Mounts = []record.Mount{{Host: shared, Guest: "/shared"}}
	})
	t.Cleanup(func() {
		for _, name := range []string{"vm", "fork-1", "fork-2"} {
			if !t.Failed() {
				break
			}
			log, _ := os.ReadFile(b.book.Folder(name).Log())
			console, _ := os.ReadFile(b.book.Folder(name).Console())
			t.Logf("%s: supervisor:\n%s\nconsole:\n%s", name, log, console)
		}
	})
	ask := func(name string, argv ...string) string {
		t.Helper()
		out, status := b.exec(name, "", argv...)
		if status != 0 {
			t.Errorf("%s: %q ended with %d: %s", name, argv, status, out)
		}
		return strings.TrimSpace(out)
	}
	ask("vm", "sh", "-c", "setsid -f sh -c '"+openInMount+"' </dev/null >/dev/null 2>&1")
	reader := ask("vm", "sh", "-c", until, "/tmp/reader")
	boot := ask("vm", "cat", "/proc/sys/kernel/random/boot_id")
	ask("vm", "sh", "-c", "echo on its disk > ~/file; sync")

	begun := time.Now()
	forks := []string{"fork-1", "fork-2"}
	if _, err := b.m.Fork(t.Context(), "vm", sandbox.Fork{Names: forks}); err != nil {
		t.Fatal(err)
	}
	t.Logf("two forks in %v", time.Since(begun).Round(time.Millisecond))

	seen := map[string]string{}
	differs := func(what, name, value string) {
		t.Helper()
		if other, there := seen[what+value]; there || value == "" {
			t.Errorf("%s and %s have the same %s: %q", other, name, what, value)
		}
		seen[what+value] = name
	}
	for _, name := range append(forks, "vm") {
		if got := ask(name, "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
			t.Errorf("%s booted: %s, the first %s", name, got, boot)
		}
		if got := ask(name, "sh", "-c", "cat ~/file"); got != "on its disk" {
			t.Errorf("the disk of %s has %q", name, got)
		}
		differs("machine-id", name, ask(name, "cat", "/etc/machine-id"))
		differs("host name", name, ask(name, "hostname"))
		differs("random bytes", name, ask(name, "sh", "-c", "head -c 16 /dev/urandom | od -An -tx1"))
		key, err := os.ReadFile(b.book.Folder(name).HostKeyPublic())
		if err != nil {
			t.Error(err)
		}
		differs("host key", name, string(key)) // the host pinned it: exec would not have worked else
		if got := ask(name, "cat", "/shared/open"); got != "from the host" {
			t.Errorf("%s reads %q in the mount", name, got)
		}
		ask(name, "sh", "-c", "hostname > /shared/$(hostname)")
		ask(name, "touch", "/tmp/go")
		if got := ask(name, "sh", "-c", until, "/tmp/read"); got == "read" || got == "" {
			t.Errorf("process %s of %s read what it had open in the mount before: %q", reader, name, got)
		} else {
			t.Logf("%s: a file that was open in the mount: %s", name, got)
		}
	}
	for _, name := range append(forks, "vm") {
		if text, err := os.ReadFile(filepath.Join(shared, name)); err != nil || strings.TrimSpace(string(text)) != name {
			t.Errorf("what %s wrote to the mount: %q, %v", name, text, err)
		}
	}
	restarted(t, b, "fork-1", ask)
	keptAndRestored(t, b, "fork-1", ask)
}

// keptAndRestored keeps a fork, deletes it, and runs on from its snapshot as another
// sandbox.
func keptAndRestored(t *testing.T, b *bench, name string, ask func(string, ...string) string) {
	boot, machine := ask(name, "cat", "/proc/sys/kernel/random/boot_id"), ask(name, "cat", "/etc/machine-id")
	ask(name, "sh", "-c", "echo kept > ~/file")
	kept, err := b.m.Snapshot(t.Context(), name, "kept", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the snapshot takes %d MB", kept.OnDisk/1e6)
	ask(name, "sh", "-c", "echo later > ~/file")
	if err := b.m.Delete(t.Context(), name, sandbox.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := b.m.Restore(t.Context(), "kept", sandbox.Fork{Names: []string{"back"}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("restored in %v", time.Since(begun).Round(time.Millisecond))
	if got := ask("back", "cat", "/proc/sys/kernel/random/boot_id"); got != boot {
		t.Errorf("it booted: %s, was %s", got, boot)
	}
	if got := ask("back", "cat", "/etc/machine-id"); got == machine {
		t.Error("it has the machine-id of the one that was kept")
	}
	if got := ask("back", "sh", "-c", "cat ~/file; cat /shared/open"); got != "kept\nfrom the host" {
		t.Errorf("its disk and its mount have %q", got)
	}
}

// restarted starts a fork anew: it boots like any other sandbox, with its own identity.
func restarted(t *testing.T, b *bench, name string, ask func(string, ...string) string) {
	before := ask(name, "cat", "/etc/machine-id")
	if err := b.m.Stop(context.Background(), name, time.Minute); err != nil {
		t.Fatal(err)
	}
	b.start(name)
	if got := ask(name, "cat", "/etc/machine-id"); got != before {
		t.Errorf("machine-id %s after a restart, want %s", got, before)
	}
	if got := ask(name, "sh", "-c", "cat ~/file"); got != "on its disk" {
		t.Errorf("its disk has %q after a restart", got)
	}
}
