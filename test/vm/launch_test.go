//go:build vm

package vm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMainJob is the README's promise: one command from an empty cache to the
// agent's own output and status, and nothing kept.
func TestMainJob(t *testing.T) {
	w := theWorld
	got := w.run(t, nil, "claude", "start", "--no-mount", "--rm", "--", "--version")
	if want := publishedVersion(t); got.status != 0 || !strings.HasPrefix(got.stdout, want+" ") {
		t.Fatalf("status %d, stdout %q, want version %s; stderr %s", got.status, got.stdout, want, got.stderr)
	}
	if list := w.must(t, "list", "--json"); strings.Contains(list, `"claude-code"`) && w.state(t, "claude-code") != "" {
		t.Errorf("--rm kept the sandbox: %s", list)
	}
}

func TestAgentStatusIsHandedBack(t *testing.T) {
	w := theWorld
	got := w.run(t, nil, "claude", "start", "--no-mount", "--rm", "--", "--no-such-flag-of-the-agent")
	if got.status == 0 || got.status == 125 {
		t.Fatalf("status %d, want the agent's own; stderr %s", got.status, got.stderr)
	}
}

func publishedVersion(t *testing.T) string {
	t.Helper()
	for _, r := range published(t).Rows {
		if r.Preset == "claude-code" {
			return r.Agent.Version
		}
	}
	t.Fatal("the manifest has no claude-code row")
	return ""
}

// TestInfoNamesTheKernel wants a stand-in named as such, and ours not.
func TestInfoNamesTheKernel(t *testing.T) {
	w := theWorld
	name := w.common(t)
	kernel := strings.TrimSpace(w.must(t, "exec", name, "--", "uname", "-r"))
	info := w.must(t, "info", name)
	standIn := strings.Contains(strings.ToLower(info), "stand-in")
	if ours := strings.Contains(kernel, "-smolvm"); !strings.Contains(info, kernel) || standIn == ours {
		t.Fatalf("uname -r is %s; info says %s", kernel, info)
	}
}

// TestBoundedWaitShowsTheConsole gives the guest less time than any boot needs.
func TestBoundedWaitShowsTheConsole(t *testing.T) {
	w := theWorld
	w.common(t)
	got := w.run(t, nil, "claude", "start", "-n", "late", "--no-mount", "--no-attach", "--timeout", "1s")
	if got.status != 125 || !strings.Contains(got.stderr, "1s") {
		t.Fatalf("status %d, stderr %q", got.status, got.stderr)
	}
	eventually(t, "nothing of it is left", func() bool { return len(w.processes("late")) == 0 && w.state(t, "late") == "" })
}

// TestLayersHoldNoSecretsAndNoLeftovers mounts each layer by itself inside a
// guest and looks for what must never be published.
func TestLayersHoldNoSecretsAndNoLeftovers(t *testing.T) {
	w := theWorld
	name := w.common(t)
	script := `
set -eu
for disk in /dev/vda /dev/vdb; do
	mkdir -p /run/look; mount -o ro,noload "$disk" /run/look; cd /run/look
	find . -xdev \( -path './etc/ssh/ssh_host_*' -o -path './var/lib/apt/lists/*_Packages*' -o -path './var/cache/apt/archives/*.deb' \
		-o -path './var/log/*.log' -o -path './root/.npm/*' -o -path './home/agent/.npm/*' -o -name '.bash_history' \
		-o -path './usr/local/share/ca-certificates/*.crt' -o -path './tmp/*' -o -path './run/*' -o -name '*.dpkg-new' \) -print
	test ! -s etc/machine-id || grep -qx uninitialized etc/machine-id || echo "machine-id in $disk"
	cd /; umount /run/look
done`
	got := w.run(t, nil, "exec", name, "--", "sudo", "sh", "-c", script)
	if got.status != 0 || strings.TrimSpace(got.stdout) != "" {
		t.Fatalf("status %d, stderr %q, found in a layer:\n%s", got.status, got.stderr, got.stdout)
	}
	hostCA := "/usr/local/share/ca-certificates"
	if entries, _ := os.ReadDir(hostCA); len(entries) > 0 {
		t.Logf("the host has %d certificates of its own; none is in a layer", len(entries))
	}
}

func TestBaseHoldsWhatItPromises(t *testing.T) {
	w := theWorld
	name := w.common(t)
	script := `node --version; python3 --version; for p in uv git rg curl less ps jq ssh sudo npm; do command -v $p >/dev/null || echo "missing $p"; done; id -un 1000; sudo -n true && echo sudo; test -w /workspace && echo workspace`
	got := w.must(t, "exec", name, "--", "sh", "-c", script)
	if !strings.HasPrefix(got, "v24.") || strings.Contains(got, "missing") || !strings.HasSuffix(got, "agent\nsudo\nworkspace\n") {
		t.Fatalf("the base says:\n%s", got)
	}
}

// echoOverSSH logs in by the host's own ssh client and says what it printed.
func echoOverSSH(t *testing.T, w *world, name, key, knownHosts string, options ...string) (string, error) {
	t.Helper()
	out, err := w.openSSHWith(t, name, key, knownHosts, append(options, name, "echo in")...).CombinedOutput()
	return string(out), err
}

func TestSSHAcceptsOnlyItsOwnKeys(t *testing.T) {
	w := theWorld
	name := w.common(t)
	folder := filepath.Join(w.home, "sandboxes", name, "ssh")
	key, known := filepath.Join(folder, "client_ed25519"), filepath.Join(folder, "known_hosts")
	if out, err := echoOverSSH(t, w, name, key, known); err != nil || !strings.Contains(out, "in") {
		t.Fatalf("the right key and host key: %v, %q", err, out)
	}
	other := filepath.Join(t.TempDir(), "other")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	if out, err := echoOverSSH(t, w, name, other, known); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("another client key was not refused: %v, %q", err, out)
	}
	if out, err := echoOverSSH(t, w, name, key, known, "-o", "PubkeyAuthentication=no", "-o", "PasswordAuthentication=yes"); err == nil || !strings.Contains(out, "Permission denied (publickey)") {
		t.Errorf("a password was not refused at once: %v, %q", err, out)
	}
	wrong := filepath.Join(t.TempDir(), "known_hosts")
	public := strings.Fields(read(t, other+".pub"))
	os.WriteFile(wrong, []byte(name+" "+public[0]+" "+public[1]+"\n"), 0o600)
	if out, err := echoOverSSH(t, w, name, key, wrong); err == nil || !strings.Contains(out, "verification failed") {
		t.Errorf("a wrong host key was not noticed: %v, %q", err, out)
	}
}

// TestWrongHostKeyIsRefusedByTheLauncher makes the guest present another key
// than the one pinned: the launch must fail, not ask.
func TestWrongHostKeyIsRefusedByTheLauncher(t *testing.T) {
	w := theWorld
	name := w.sandbox(t, "impostor")
	w.must(t, "stop", name)
	pinned := filepath.Join(w.home, "sandboxes", name, "ssh", "host_ed25519.pub")
	other := filepath.Join(t.TempDir(), "other")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	if err := os.WriteFile(pinned, []byte(read(t, other+".pub")), 0o600); err != nil {
		t.Fatal(err)
	}
	got := w.run(t, nil, "start", name, "--no-attach")
	if got.status != 125 || !strings.Contains(got.stderr, "host key") {
		t.Fatalf("status %d, stderr %q; want 125 and the host key named", got.status, got.stderr)
	}
}

func TestFilesOverSFTP(t *testing.T) {
	w := theWorld
	name := w.common(t)
	folder := filepath.Join(w.home, "sandboxes", name, "ssh")
	source := filepath.Join(t.TempDir(), "file")
	os.WriteFile(source, []byte("over sftp\n"), 0o640)
	cmd := exec.CommandContext(t.Context(), "scp", "-F", "none", "-q", "-o", "ProxyCommand="+w.bin+" ssh --stdio "+name,
		"-o", "UserKnownHostsFile="+filepath.Join(folder, "known_hosts"), "-o", "IdentitiesOnly=yes",
		"-i", filepath.Join(folder, "client_ed25519"), source, "agent@"+name+":/workspace/sent")
	cmd.Env = w.command(t.Context()).Env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("scp: %v: %s", err, out)
	}
	if got := w.must(t, "exec", name, "--", "cat", "/workspace/sent"); got != "over sftp\n" {
		t.Fatalf("the guest has %q", got)
	}
}

// TestVanishedClientIsHungUp kills the client of a session and looks whether
// its program got SIGHUP.
func TestVanishedClientIsHungUp(t *testing.T) {
	w := theWorld
	name := w.common(t)
	cmd := w.command(t.Context(), "exec", name, "--", "sh", "-c", `trap 'echo hup >/tmp/hung-up; kill $!; exit' HUP; echo up; sleep 600 & wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 3))
	cmd.Process.Kill()
	cmd.Wait()
	eventually(t, "the session was hung up", func() bool {
		return w.run(t, nil, "exec", name, "--", "cat", "/tmp/hung-up").stdout == "hup\n"
	})
}
