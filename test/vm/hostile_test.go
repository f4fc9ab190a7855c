//go:build vm

package vm_test

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/manifest"
	"github.com/smolvm/smolvm/internal/trust"
	"github.com/smolvm/smolvm/test/catalogue"
)

// variant publishes the real images once more with rows that were altered and
// signed by a key of its own, and gives the flags with which to launch them.
func variant(t *testing.T, alter func(c *catalogue.Catalogue, row *manifest.Row)) []string {
	t.Helper()
	private, public, err := trust.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source, err := filepath.Abs(*images)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "manifest.") {
			continue
		}
		if err := os.Symlink(filepath.Join(source, entry.Name()), filepath.Join(dir, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	c := &catalogue.Catalogue{
		Dir: dir, Address: filepath.Join(dir, "manifest.json"), PrivateKey: private, PublicKey: public, Manifest: published(t),
	}
	c.Manifest.Release += "-" + strings.ToLower(t.Name()) // links of its own in the shared cache
	for i := range c.Manifest.Rows {
		alter(c, &c.Manifest.Rows[i])
	}
	if err := c.Publish(); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(key, []byte(public+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"--manifest", c.Address, "--trusted-key", key}
}

// refused launches what cannot become ready and gives the message. It has to
// come in time, and nothing may stay.
func refused(t *testing.T, name string, within time.Duration, flags ...string) string {
	t.Helper()
	w := theWorld
	begun := time.Now()
	got := w.run(t, nil, append(launch(name), flags...)...)
	if got.status != 125 || time.Since(begun) > within {
		t.Fatalf("status %d after %v, want 125 within %v; stderr %s", got.status, time.Since(begun), within, got.stderr)
	}
	eventually(t, "nothing of it is left", func() bool { return len(w.processes(name)) == 0 && w.state(t, name) == "" })
	return got.stderr
}

// TestNeverReadyGuestIsBounded: the guest agent gives up at once. The message
// has the console's last lines, in which the agent says why.
func TestNeverReadyGuestIsBounded(t *testing.T) {
	flags := variant(t, func(_ *catalogue.Catalogue, row *manifest.Row) { row.Kernel.CommandLine += " smolvm.mode=nonsense" })
	message := refused(t, "never", 60*time.Second, flags...)
	if !strings.Contains(message, "nonsense") || !strings.Contains(message, "console ended with") {
		t.Errorf("the message does not say why: %s", message)
	}
}

// TestRebootLoopBeforeReadyIsBounded: the kernel panics and boots again, forever.
func TestRebootLoopBeforeReadyIsBounded(t *testing.T) {
	flags := variant(t, func(_ *catalogue.Catalogue, row *manifest.Row) {
		row.Kernel.CommandLine += " rdinit=/no/such root=/dev/none panic=-1"
	})
	message := refused(t, "looping", 60*time.Second, append(flags, "--timeout", "15s")...)
	ended := strings.Contains(message, "15s") || strings.Contains(message, "started 6 times")
	if !ended || !strings.Contains(message, "panic") {
		t.Errorf("the message does not say why: %s", message)
	}
}

// TestBrokenKernelIsBounded: the signed kernel is no kernel.
func TestBrokenKernelIsBounded(t *testing.T) {
	flags := variant(t, func(c *catalogue.Catalogue, row *manifest.Row) {
		asset, err := c.Add(context.Background(), "kernel", catalogue.Noise(1, 200_000))
		if err != nil {
			t.Fatal(err)
		}
		row.Kernel.Image = asset
	})
	message := refused(t, "kernelless", 60*time.Second, append(flags, "--timeout", "15s")...)
	if !strings.Contains(message, "kernelless") {
		t.Errorf("the message names no sandbox: %s", message)
	}
}

// TestConsoleFlood: a guest that writes to its console without end gets no
// disk, no memory and no attention.
func TestConsoleFlood(t *testing.T) {
	w := theWorld
	seconds := "5"
	if *long {
		seconds = "60"
	}
	name := w.sandbox(t, "flood")
	supervisor := w.supervisor(t, name)
	before := resident(t, supervisor)
	w.run(t, nil, "exec", name, "--", "sudo", "sh", "-c",
		`tr '\0' 'A' </dev/zero >/dev/console & sleep `+seconds+`; kill $!`)
	console := filepath.Join(w.home, "sandboxes", name, "console.log")
	info, err := os.Stat(console)
	if err != nil {
		t.Fatal(err)
	}
	after := resident(t, supervisor)
	t.Logf("console.log has %d bytes; the supervisor went from %d to %d KiB", info.Size(), before, after)
	if info.Size() > 2<<20 || info.Size() < 4<<10 {
		t.Errorf("console.log has %d bytes", info.Size())
	}
	if after > before+16<<10 {
		t.Errorf("the supervisor grew from %d to %d KiB", before, after)
	}
	if got := w.must(t, "exec", name, "--", "echo", "in"); got != "in\n" {
		t.Errorf("after the flood exec prints %q", got)
	}
}

// TestHostileTextIsNotShownRaw: what a guest writes where people look later.
func TestHostileTextIsNotShownRaw(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "painter")
	w.must(t, "exec", name, "--", "sudo", "sh", "-c",
		`hostname "$(printf 'a\033[31mb')"; printf '\033]0;owned\007\033[2J\302\23331mred\033[0m end-of-text\n' >/dev/console`)
	eventually(t, "the log has the line", func() bool {
		return strings.Contains(w.run(t, nil, "logs", name).stdout, "end-of-text")
	})
	for _, args := range [][]string{{"logs", name}, {"list"}, {"info", name}} {
		if shown := w.onTerminal(t, args...); strings.ContainsAny(shown, "\a\u009b") || strings.Contains(shown, "\x1b]") || strings.Contains(shown, "\x1b[2J") {
			t.Errorf("%v shows control sequences of the guest: %q", args, shown)
		}
	}
}

// onTerminal gives what a command shows on a terminal.
func (w *world) onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	master, slave := openPTY(t, 24, 80)
	cmd := w.command(t.Context(), args...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	shown, _ := io.ReadAll(master) // it ends with EIO once the command is gone
	if err := cmd.Wait(); err != nil {
		t.Fatalf("smolvm %v: %v: %s", args, err, shown)
	}
	return string(shown)
}

// TestFullDiskStaysUsable: a guest without a free byte on its disk answers, can
// be started again, cleaned up and deleted.
func TestFullDiskStaysUsable(t *testing.T) {
	w := theWorld
	const name = "full"
	w.must(t, append(launch(name), "--disk", "300M")...)
	defer w.remove(name)
	for range 2 { // the room that a start needs is held again after the first time
		got := w.run(t, nil, "exec", name, "--", "sudo", "sh", "-c", "fallocate -l $(df -B1 --output=avail /workspace | tail -1) /workspace/fill; cat /dev/zero >/workspace/rest")
		if got.status == 0 || !strings.Contains(got.stderr, "No space left") {
			t.Fatalf("filling the disk ended with %d: %s", got.status, got.stderr)
		}
		w.run(t, nil, "exec", name, "--", "sudo", "sh", "-c", "yes >/home/agent/last; yes >/etc/last") // the last blocks
		w.must(t, "exec", name, "--", "true")
		w.must(t, "stop", name)
		w.must(t, "start", name, "--no-attach")
		w.must(t, "exec", name, "--", "sudo", "dd", "if=/dev/zero", "of=/etc/room", "bs=64k", "count=16", "conv=fsync") // of what was held
		w.must(t, "exec", name, "--", "sudo", "rm", "/etc/room", "/workspace/fill", "/workspace/rest", "/home/agent/last", "/etc/last")
		w.must(t, "exec", name, "--", "sh", "-c", "echo room >/workspace/new; sudo sh -c 'echo room >/etc/new'")
		w.must(t, "stop", name)
		w.must(t, "start", name, "--no-attach")
	}
}

// TestRebootsStayControllable: a guest that reboots whenever it is up can be
// looked at and deleted at any time.
func TestRebootsStayControllable(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "restless")
	rounds := 2
	if *long {
		rounds = 6
	}
	for range rounds {
		w.run(t, nil, "exec", name, "--", "sudo", "reboot")
		if got := w.state(t, name); got != "running" {
			t.Fatalf("while it reboots its state is %q", got)
		}
		eventually(t, "it is back", func() bool { return w.run(t, nil, "exec", name, "--", "true").status == 0 })
	}
	w.run(t, nil, "exec", name, "--", "sudo", "reboot")
	w.must(t, "delete", name, "--yes")
	if left := w.processes(name); len(left) != 0 {
		t.Errorf("processes: %v", left)
	}
}
