//go:build vm

package vm_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mounted is a sandbox with mounts.
type mounted struct {
	*world
	name, project, data, file string // paths of the host
}

func newMounted(t *testing.T) mounted {
	w := theWorld
	top := t.TempDir()
	m := mounted{
		world: w, name: "mounted", project: filepath.Join(top, "a project"), data: filepath.Join(top, "data"),
		file: filepath.Join(top, "agent.conf"),
	}
	for _, dir := range []string{m.project, m.data} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		m.file: "one file", filepath.Join(m.data, "x"): "data", filepath.Join(m.project, "from-host"): "hello",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.must(t, "claude", "start", "-n", m.name, "--no-attach", "--memory", "1G",
		"--mount", m.project, "--mount", m.data+":/srv/data:ro", "--mount", m.file+":/home/agent/.config/tool/agent.conf")
	t.Cleanup(func() { w.remove(m.name) })
	return m
}

// in runs a shell command in the guest that has to succeed.
func (m mounted) in(t *testing.T, script string) string {
	t.Helper()
	return m.must(t, "exec", m.name, "--", "sh", "-ec", script)
}

// TestMounts looks at one sandbox with a project, a read-only folder and a file.
func TestMounts(t *testing.T) {
	m := newMounted(t)
	t.Run("Basics", m.basics)
	t.Run("Conformance", m.conformance)
	t.Run("ChangesOfTheHostShow", m.fresh)
	t.Run("ReadOnly", m.readOnly)
	t.Run("Refused", m.refused)
	t.Run("Projects", m.projects)
	t.Run("Confined", m.confined)
	t.Run("Watchers", m.watchers)
	t.Run("AddAndRemove", m.addAndRemove)
	t.Run("Reboot", m.reboot)
	t.Run("Vanished", m.vanished)
}

func (m mounted) basics(t *testing.T) {
	got := m.in(t, `stat -c '%U %a' from-host; cat from-host; echo " guest" >from-guest; cat /srv/data/x
		echo; cat ~/.config/tool/agent.conf; stat -c ' %U' ~/.config`)
	if got != "agent 644\nhellodata\none file agent\n" {
		t.Errorf("in the guest: %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(m.project, "from-guest")); err != nil || string(got) != " guest\n" {
		t.Errorf("on the host: %q, %v", got, err)
	}
	info, _ := os.Stat(filepath.Join(m.project, "from-guest"))
	if info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v", info.Mode())
	}
	if shown := m.must(t, "info", m.name); !strings.Contains(shown, m.data+" at /srv/data, read-only") {
		t.Errorf("info: %s", shown)
	}
}

// conformance runs test/mount on the mount, and on the guest's own disk, which
// tells a wrong case from a wrong mount.
func (m mounted) conformance(t *testing.T) {
	needLong(t)
	m.give(t, m.name, compiled(t, "../mount"), "/home/agent/mount.test")
	m.in(t, "mkdir ~/own /workspace/mounted")
	for _, folder := range []string{"/home/agent/own", "/workspace/mounted"} {
		got := m.run(t, nil, "exec", m.name, "--", "/home/agent/mount.test", "-test.v", "-folder", folder)
		if got.status != 0 || !strings.Contains(got.stdout, "--- PASS") {
			t.Errorf("%s: status %d\n%s\n%s", folder, got.status, failures(got.stdout), got.stderr)
		}
	}
	m.in(t, "rmdir /workspace/mounted")
}

// failures are what a test's output says of cases that failed or were left out.
func failures(out string) string {
	var list []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "--- PASS") && !strings.Contains(line, "=== ") {
			list = append(list, line)
		}
	}
	return strings.Join(list, "")
}

// fresh changes files on the host that the guest has just looked at: each change
// shows within a second.
func (m mounted) fresh(t *testing.T) {
	path := filepath.Join(m.project, "watched")
	if err := os.WriteFile(path, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := `n=0; while read want; do
		read past <watched || past=gone; echo "saw $past"
		read go; s=$(date +%s%N)
		until [ "$(cat watched 2>/dev/null || echo gone)" = "$want" ]; do sleep 0.02; done
		echo "took $(( ($(date +%s%N) - s) / 1000000 ))"
	done`
	cmd := m.command(t.Context(), "exec", m.name, "--", "bash", "-c", script)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := lineReader{out}
	for _, change := range []struct {
		want string
		do   func() error
	}{
		{"1", func() error { return os.WriteFile(path, []byte("1\n"), 0o644) }},
		{"longer", func() error { return os.WriteFile(path, []byte("longer\n"), 0o644) }},
		{"replaced", func() error {
			if err := os.WriteFile(path+".new", []byte("replaced\n"), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}},
		{"gone", func() error { return os.Remove(path) }},
		{"again", func() error { return os.WriteFile(path, []byte("again\n"), 0o644) }},
	} {
		fmt.Fprintln(in, change.want)
		lines.next(t) // what it saw, which it may believe from now on
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in, "go")
		var took int
		if _, err := fmt.Sscanf(lines.next(t), "took %d", &took); err != nil || took > 1000 {
			t.Errorf("%q showed after %d ms, %v", change.want, took, err)
		}
		t.Logf("%q showed after %d ms", change.want, took)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// lineReader reads a pipe line by line, nothing ahead.
type lineReader struct{ from io.Reader }

func (r lineReader) next(t *testing.T) string {
	t.Helper()
	var line []byte
	for one := make([]byte, 1); ; line = append(line, one[0]) {
		if _, err := r.from.Read(one); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		if one[0] == '\n' {
			return string(line)
		}
	}
}

// readOnly tries to write as root of the guest, who may also make the mount
// writable: the host refuses all the same.
func (m mounted) readOnly(t *testing.T) {
	got := m.in(t, `sudo sh -c 'mount -o remount,bind,rw /srv/data 2>&1; echo bad >/srv/data/x; rm /srv/data/x; touch /srv/data/y; chmod 777 /srv/data/x' 2>&1 || true; cat /srv/data/x`)
	if !strings.HasSuffix(got, "data") || !strings.Contains(got, "ead-only") {
		t.Errorf("the guest: %s", got)
	}
	left, _ := os.ReadDir(m.data)
	if len(left) != 1 {
		t.Errorf("the host has %v", left)
	}
}

func (m mounted) refused(t *testing.T) {
	got := m.in(t, `touch f; for c in "mknod dev c 1 3" "chmod u+s f" "chmod g+s f" "chown root f" "setfattr -n trusted.x -v y f"; do
		sudo $c 2>/dev/null && echo "$c"; done; rm f; test ! -e dev`)
	if got != "" {
		t.Errorf("done: %s", got)
	}
}

// projects does what tools do in a project, which has to give the same as on the
// guest's own disk.
func (m mounted) projects(t *testing.T) {
	needLong(t)
	const work = `mkdir p; cd p; git init -q .; git config user.name a; git config user.email a@b
		for i in $(seq 200); do echo "line $i" >f$i; done; git add -A; git commit -qm one --date=@0
		git mv f1 g1; echo more >>f2; rm f3; git add -A; git stash -q; git stash pop -q --index; git status --porcelain; git gc -q; git fsck --no-dangling 2>&1
		python3 -u - <<X
import sqlite3, fcntl, subprocess, sys, os
c = sqlite3.connect("db"); c.execute("pragma journal_mode=wal"); c.execute("create table t(a)")
for i in range(50): c.execute("insert into t values(?)", (i,)); c.commit()
print(c.execute("select count(*), sum(a) from t").fetchone()); c.close()
f = open("lock", "w"); fcntl.flock(f, fcntl.LOCK_EX)
print(subprocess.call([sys.executable, "-c", "import fcntl\ntry: fcntl.flock(open('lock'), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: print('held')"]))
fcntl.lockf(f, fcntl.LOCK_EX, 10)
print(subprocess.call([sys.executable, "-c", "import fcntl\ntry: fcntl.lockf(open('lock', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB, 5)\nexcept BlockingIOError: print('held')"]))
os.mkfifo("pipe"); print(subprocess.check_output("echo through >pipe & cat pipe", shell=True))
import socket; s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen(); d = socket.socket(socket.AF_UNIX); d.connect("sock"); print("socket")
X
		printf '#!/bin/sh\necho ran\n' >run; chmod +x run; ./run; cd ..; rm -rf p`
	own := m.in(t, "mkdir -p ~/own; cd ~/own; "+work)
	here := m.in(t, work)
	if own != here || strings.Count(here, "held") != 2 || !strings.Contains(here, "ran") {
		t.Errorf("on the guest's own disk:\n%s\non the mount:\n%s", own, here)
	}
}

// confined lets the guest make a link to the outside and go through it: it meets
// its own files, never those of the host.
func (m mounted) confined(t *testing.T) {
	outside := filepath.Join(filepath.Dir(m.project), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := m.in(t, fmt.Sprintf(`ln -s %q link; ln -s ../secret up; cat link up ../secret 2>/dev/null || true; echo bad >link || true; rm link up`, outside))
	if strings.Contains(got, "secret") {
		t.Errorf("the guest reads %q", got)
	}
	if got, _ := os.ReadFile(outside); string(got) != "secret" {
		t.Errorf("the guest wrote %q", got)
	}
}

// watchers runs a watcher of Node, on which those of vite and most others are
// built, and changes files on the host.
func (m mounted) watchers(t *testing.T) {
	dir := filepath.Join(m.project, "watch")
	for name, text := range map[string]string{"page.js": "1", "old.js": "1"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const script = `const fs = require("fs"); let known = "";
		const look = () => fs.readdirSync(".").sort().map(n => n + "=" + fs.readFileSync(n)).join(" ");
		fs.watch(".", () => { const now = look(); if (now !== known) { known = now; console.log(now) } });
		known = look(); console.log(known);`
	cmd := m.command(t.Context(), "exec", "-w", "/workspace/watch", m.name, "--", "node", "-e", script)
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}()
	lines := lineReader{out}
	lines.next(t)
	for _, c := range []struct {
		want string
		do   func() error
	}{
		{"old.js=1 page.js=22", func() error { return os.WriteFile(filepath.Join(dir, "page.js"), []byte("22"), 0o644) }},
		{"new.js=3 old.js=1 page.js=22", func() error {
			if err := os.WriteFile(filepath.Join(dir, "..", "new"), []byte("3"), 0o644); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "..", "new"), filepath.Join(dir, "new.js"))
		}},
		{"new.js=3 page.js=22", func() error { return os.Remove(filepath.Join(dir, "old.js")) }},
	} {
		began := time.Now()
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if got := lines.next(t); got != c.want {
			t.Errorf("the watcher sees %q, want %q", got, c.want)
		}
		t.Logf("%q showed after %v", c.want, time.Since(began))
	}
	if info := m.must(t, "info", m.name); !strings.Contains(info, "watched   changes of this computer are told in ") {
		t.Errorf("info: %s", info)
	}
}

// addAndRemove changes the mounts of the running sandbox, with which it reboots
// and starts again.
func (m mounted) addAndRemove(t *testing.T) {
	more := filepath.Join(filepath.Dir(m.project), "more")
	if err := os.Mkdir(more, 0o755); err != nil {
		t.Fatal(err)
	}
	m.must(t, "mount", "add", m.name, more+":/srv/more", m.data+":/workspace-data:ro")
	if got := m.in(t, "echo new >/srv/more/file; cat /workspace-data/x; touch /workspace-data/y 2>&1 || true"); !strings.Contains(got, "ead-only") {
		t.Errorf("in the guest: %s", got)
	}
	if got, err := os.ReadFile(filepath.Join(more, "file")); err != nil || string(got) != "new\n" {
		t.Errorf("on the host: %q, %v", got, err)
	}
	for _, c := range [][]string{ // each is refused, and changes nothing
		{"add", m.name, more + ":/srv/more"},
		{"add", m.name, more + ":/srv"},
		{"add", m.name, more + ":/etc/passwd"},
		{"remove", m.name, "/srv"},
		{"add", m.name, filepath.Join(more, "none") + ":/x"},
	} {
		if got := m.run(t, nil, append([]string{"mount"}, c...)...); got.status == 0 || got.stderr == "" {
			t.Errorf("%v: status %d, %s", c, got.status, got.stderr)
		}
	}
	m.must(t, "mount", "remove", m.name, "/workspace-data")
	if got := m.must(t, "mount", "list", m.name); strings.Contains(got, "/workspace-data") || !strings.Contains(got, "/srv/more") {
		t.Errorf("list: %s", got)
	}
	if got := m.in(t, "ls -A /workspace-data; cat /srv/more/file /srv/data/x"); got != "new\ndata" {
		t.Errorf("in the guest: %q", got)
	}
}

func (m mounted) reboot(t *testing.T) {
	m.run(t, nil, "exec", m.name, "--", "sudo", "reboot")
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		got := m.run(t, nil, "exec", m.name, "--", "sh", "-c", "cut -d. -f1 /proc/uptime; cat from-host")
		if got.status == 0 && strings.Contains(got.stdout, "hello") {
			break
		}
	}
	m.in(t, "grep -q hello from-host; grep -q new /srv/more/file; echo after >rebooted")
	m.must(t, "stop", m.name)
	m.must(t, "start", "--no-attach", m.name)
	m.must(t, "mount", "remove", m.name, "/srv/more")
	if got := m.in(t, "cat rebooted; ls /srv/more"); got != "after\n" {
		t.Errorf("after a stop and a start: %q", got)
	}
}

// vanished takes the folder away: errors, no waiting; and a start that says so.
func (m mounted) vanished(t *testing.T) {
	if err := exec.Command("rm", "-rf", m.project).Run(); err != nil {
		t.Fatal(err)
	}
	got := m.run(t, nil, "exec", m.name, "--", "timeout", "10", "sh", "-c", "touch /workspace/x; echo $?; ls /workspace/from-host; cat /srv/data/x")
	if got.status != 0 || strings.HasPrefix(got.stdout, "0") || !strings.HasSuffix(got.stdout, "data") {
		t.Errorf("status %d: %s%s", got.status, got.stdout, got.stderr)
	}
	m.must(t, "stop", m.name)
	again := m.run(t, nil, "start", "--no-attach", m.name)
	if again.status != 125 || !bytes.Contains([]byte(again.stderr), []byte(m.project)) {
		t.Errorf("start: status %d: %s", again.status, again.stderr)
	}
}
