//go:build vm

package vm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The secrets of these cases. No file of the host's but the login, and none of the
// guest's but those in memory, may ever hold one of them.
const (
	secretKey   = "smolvm-marker-key-5f1d0c"
	secretFlag  = "smolvm-marker-flag-77ab21"
	secretLogin = "smolvm-marker-login-90be4c"
	secretNew   = "smolvm-marker-renewed-31aa08"
)

// placeholder begins what the agent gets in place of a key.
const placeholder = "sk-ant-api03-smolvm-placeholder-"

// fakeAgent stands in for the agent: it shows what it got, and renews its login as
// agents do, in place and by a file that is moved over what the link leads to.
const fakeAgent = `#!/bin/sh
file=$HOME/.claude/.credentials.json
shift # --dangerously-skip-permissions
case $1 in
show) echo "key=$ANTHROPIC_API_KEY flag=$EXTRA"; [ ! -e "$file" ] || { stat -Lc '%a %U' "$file"; cat "$file"; } ;;
renew) real=$(readlink -f "$file"); printf '{"token":"%s"}' "$2" >"$real.tmp"; mv "$real.tmp" "$real" ;;
hold) echo holding; read line ;;
crash) cd /workspace && kill -SEGV $$ ;;
esac
`

// user is somebody with a login, on the host.
func user(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	for path, text := range map[string]string{
		".claude/.credentials.json": `{"token":"` + secretLogin + `"}`,
		".gitconfig":                "[user]\n\tname = Zoë Example\n\temail = zoe@example.org\n",
		".ssh/id_ed25519":           "smolvm-marker-ssh",
	} {
		at := filepath.Join(home, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return home
}

// as gives the world another user's home and variables.
func (w *world) as(t *testing.T, home string, env ...string) *world {
	t.Helper()
	return &world{
		bin: w.bin, home: w.home, address: w.address, path: w.path, small: w.small,
		env: append([]string{"HOME=" + home}, env...),
	}
}

// plantAgent puts the fake agent where the sandbox's PATH finds it first.
func (w *world) plantAgent(t *testing.T, name, script string) {
	t.Helper()
	r := w.run(t, strings.NewReader(script), "exec", name, "--", "sh", "-c",
		"mkdir -p ~/.local/bin && cat >~/.local/bin/claude && chmod +x ~/.local/bin/claude")
	if r.status != 0 {
		t.Fatalf("plant an agent: %s", r.stderr)
	}
}

func TestCredentialsStayInMemory(t *testing.T) {
	home := user(t)
	w := theWorld.as(t, home, "ANTHROPIC_API_KEY="+secretKey, "EXTRA="+secretFlag)
	w.must(t, "config", "set", "preset.claude.credentials", "ANTHROPIC_API_KEY", "~/.claude/.credentials.json")
	w.must(t, "config", "set", "preset.claude.copy_back", "true")
	t.Cleanup(func() {
		for _, key := range []string{"credentials", "copy_back"} {
			if err := w.command(context.Background(), "config", "unset", "preset.claude."+key).Run(); err != nil {
				t.Error(err)
			}
		}
	})
	const name = "credentials"
	started := w.run(t, nil, "claude", "start", "-n", name, "--no-mount", "--no-attach", "--memory", "1G", "--cpus", "1", "-e", "EXTRA")
	t.Cleanup(func() { w.remove(name) })
	if started.status != 0 || !strings.Contains(started.stderr, "The agent gets of yours: ~/.claude/.credentials.json, EXTRA.") ||
		!strings.Contains(started.stderr, "Kept from the sandbox, which gets placeholders: ANTHROPIC_API_KEY for api.anthropic.com.") {
		t.Fatalf("start: %d, %s", started.status, started.stderr)
	}
	w.plantAgent(t, name, fakeAgent)

	shown := w.must(t, "attach", name, "--", "show")
	want := " flag=" + secretFlag + "\n600 agent\n{\"token\":\"" + secretLogin + "\"}"
	if !strings.HasPrefix(shown, "key="+placeholder) || !strings.HasSuffix(shown, want) || strings.Contains(shown, secretKey) {
		t.Errorf("the agent sees %q, want a placeholder and %q", shown, want)
	}
	if got := w.must(t, "exec", name, "--", "env"); strings.Contains(got, "smolvm-marker") {
		t.Errorf("a program that is not the agent's gets %s", got)
	}
	if got := w.must(t, "exec", name, "--", "git", "config", "--get-regexp", "^user"); got != "user.name Zoë Example\nuser.email zoe@example.org\n" {
		t.Errorf("git in the sandbox knows %q", got)
	}
	w.guestScan(t, name)

	// What the agent renews comes back, because the user said so.
	w.must(t, "attach", name, "--", "renew", secretNew)
	raw, err := os.ReadFile(filepath.Join(home, ".claude/.credentials.json"))
	if want := `{"token":"` + secretNew + `"}`; string(raw) != want || err != nil {
		t.Errorf("the host's login is %s, %v", raw, err)
	}
	w.guestScan(t, name)
	if got := w.must(t, "info", name, "--json") + w.must(t, "info", name) + w.must(t, "list", "--json"); strings.Contains(got, "smolvm-marker") {
		t.Errorf("info shows a secret: %s", got)
	}
	w.crashes(t, name)
	report := filepath.Join(t.TempDir(), "report")
	w.must(t, "bug-report", "--yes", "-o", report, name)
	if got := read(t, report); strings.Contains(got, "smolvm-marker") || !strings.Contains(got, `"name": "`+name+`"`) {
		t.Errorf("the bug report has a secret, or nothing of the sandbox:\n%s", got)
	}
	w.must(t, "stop", name)
	hostScan(t, w.home)
	if found, err := dataHolds(filepath.Join(w.home, "sandboxes", name, "scratch.ext4"), []byte("real=$(readlink -f")); !found || err != nil {
		t.Errorf("the scan does not even find the agent's script: %v", err)
	}
}

// crashes has the agent crash with secrets in its memory, which may be in no file
// afterwards, and looks whether the host's processes might leave theirs in one.
func (w *world) crashes(t *testing.T, name string) {
	t.Helper()
	if r := w.run(t, nil, "attach", name, "--", "crash"); r.status != 128+int(unix.SIGSEGV) {
		t.Errorf("an agent that crashes ends with status %d: %s", r.status, r.stderr)
	}
	if dumps := w.must(t, "exec", "-u", "root", name, "--", "find", "/home", "/workspace", "/tmp", "/var", "/run", "/root", "-xdev", "-type", "f", "-size", "+0", "-name", "core*", "-newer", "/home/agent/.local/bin/claude"); dumps != "" {
		t.Errorf("its memory is in %s", dumps)
	}
	for what, pid := range map[string]int{"supervisor": w.supervisor(t, name), "machine": w.monitor(t, name)} {
		limits := read(t, fmt.Sprintf("/proc/%d/limits", pid))
		if fields := strings.Fields(limits[strings.Index(limits, "Max core file size"):]); fields[4] != "0" || fields[5] != "0" {
			t.Errorf("a crash of the %s may leave %s to %s bytes of its memory in a file", what, fields[4], fields[5])
		}
	}
}

// What was given at one start is gone at the next one without: the agent may log
// in by itself.
func TestCredentialsAreTakenBack(t *testing.T) {
	needLong(t)
	w := theWorld.as(t, user(t), "ANTHROPIC_API_KEY="+secretKey)
	const name = "withdrawn"
	w.must(t, "config", "set", "preset.claude.credentials", "ANTHROPIC_API_KEY", "~/.claude/.credentials.json")
	t.Cleanup(func() {
		if err := w.command(context.Background(), "config", "unset", "preset.claude.credentials").Run(); err != nil {
			t.Error(err)
		}
	})
	w.sandbox(t, name)
	w.plantAgent(t, name, fakeAgent)
	if got := w.must(t, "attach", name, "--", "show"); !strings.HasPrefix(got, "key="+placeholder) {
		t.Errorf("the agent sees %q", got)
	}
	w.must(t, "stop", name)
	w.must(t, "start", "--no-attach", "--no-credentials", name)
	if r := w.run(t, nil, "exec", name, "--", "ls", "-lA", "/home/agent/.claude/.credentials.json"); r.status == 0 {
		t.Errorf("what was given at an earlier start is still there: %s", r.stdout)
	}
	if got := w.must(t, "attach", name, "--", "show"); got != "key= flag=\n" {
		t.Errorf("the agent still sees %q", got)
	}
}

// guestScan looks for secrets in the guest: in files, and in what processes have.
func (w *world) guestScan(t *testing.T, name string) {
	t.Helper()
	hold := w.command(t.Context(), "attach", name, "--", "hold")
	in, err := hold.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	defer hold.Wait()
	defer in.Close()
	if _, err := io.ReadFull(out, make([]byte, len("holding\n"))); err != nil {
		t.Fatalf("hold a session: %v", err)
	}
	found := w.must(t, "exec", "--user", "root", name, "--", "sh", "-c", `
grep -rlsI -e 'smolvm-marke[r]' /home /workspace /etc /root /opt /tmp /var /run /dev/shm 2>/dev/null | sort
for p in /proc/[0-9]*; do
	for f in environ cmdline; do
		if tr '\0' '\n' <$p/$f 2>/dev/null | grep -q 'smolvm-marke[r]'; then echo "$f of $(tr '\0' ' ' <$p/cmdline)"; fi
	done
done`)
	for line := range strings.Lines(found) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "/run/smolvm/credentials/") && !strings.HasPrefix(line, "environ of") || strings.Contains(line, "init") {
			t.Errorf("a secret is in %s", line)
		}
	}
	if !strings.Contains(found, "environ of /bin/sh /home/agent/.local/bin/claude") {
		t.Errorf("the scan does not even find the agent's session: %q", found)
	}
	for line := range strings.Lines(found) {
		if strings.HasPrefix(line, "environ of") && !strings.Contains(line, "claude") {
			t.Errorf("a secret is in the %s", strings.TrimSpace(line))
		}
	}
	kinds := w.must(t, "exec", name, "--", "stat", "-fc", "%T", "/run/smolvm/credentials")
	if kinds != "tmpfs\n" {
		t.Errorf("credentials are kept on %s", kinds)
	}
}

// hostScan looks through every file of the state folder, disks included, and all
// processes.
func hostScan(t *testing.T, folder string) {
	t.Helper()
	scanned := 0
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(path, ".ext4") && !strings.Contains(path, "scratch") {
			return err // layers are read-only and have digests
		}
		scanned++
		holds, err := dataHolds(path, []byte("smolvm-marker"))
		if holds {
			t.Errorf("%s holds a secret", path)
		}
		return err
	})
	if err != nil || scanned < 5 {
		t.Errorf("scanned %d files, %v", scanned, err)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		raw, _ := os.ReadFile(path)
		if bytes.Contains(raw, []byte(folder)) && bytes.Contains(raw, []byte("smolvm-marker")) {
			t.Errorf("%s holds a secret: %q", path, raw)
		}
	}
}

// dataHolds looks for text in a file, leaving out its holes.
func dataHolds(path string, text []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for at := int64(0); ; {
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		to, err := f.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			return false, err
		}
		raw := make([]byte, min(to-from, 64<<20))
		if _, err := f.ReadAt(raw, from); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if bytes.Contains(raw, text) {
			return true, nil
		}
		at = from + int64(len(raw))
		if int64(len(raw)) < to-from {
			at -= int64(len(text)) // it may lie across
		}
	}
}
