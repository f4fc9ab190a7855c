//go:build vm

package vm_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestForwardingBothWays carries TCP over the sandbox's SSH connection: from the
// host to a server on the guest's loopback, and from the guest to one here.
func TestForwardingBothWays(t *testing.T) {
	w := theWorld
	name := w.common(t)
	w.must(t, "exec", name, "--", "sh", "-c", "echo from the guest >/tmp/page; cd /tmp; nohup python3 -m http.server 8099 --bind 127.0.0.1 >/dev/null 2>&1 &")
	eventually(t, "the guest's server answers through -W", func() bool {
		cmd := w.openSSH(t, name, "-W", "127.0.0.1:8099", name)
		cmd.Stdin = strings.NewReader("GET /page HTTP/1.0\r\n\r\n")
		out, _ := cmd.Output()
		return strings.Contains(string(out), "from the guest")
	})
	here := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "from the host") }))
	defer here.Close()
	_, port, _ := net.SplitHostPort(here.Listener.Addr().String())
	cmd := w.openSSH(t, name, "-R", "9099:127.0.0.1:"+port, name, "curl -sS http://127.0.0.1:9099/")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "from the host" {
		t.Fatalf("through -R came %q, %v", out, err)
	}
}

// openSSH prepares the host's own client with the sandbox's keys.
func (w *world) openSSH(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	folder := filepath.Join(w.home, "sandboxes", name, "ssh")
	return w.openSSHWith(t, name, filepath.Join(folder, "client_ed25519"), filepath.Join(folder, "known_hosts"), args...)
}

// openSSHWith prepares it with a client key and known hosts of the caller's choice.
func (w *world) openSSHWith(t *testing.T, name, key, knownHosts string, args ...string) *exec.Cmd {
	t.Helper()
	options := []string{
		"-F", "none", "-o", "ProxyCommand=" + w.bin + " ssh --stdio " + name, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile=" + knownHosts, "-o", "IdentitiesOnly=yes", "-i", key, "-l", "agent",
	}
	cmd := exec.CommandContext(t.Context(), "ssh", append(options, args...)...)
	cmd.Env = w.command(t.Context()).Env
	return cmd
}

// TestSandboxesShareNoMutableFile compares what the host processes of two
// running sandboxes hold open for writing.
func TestSandboxesShareNoMutableFile(t *testing.T) {
	w := theWorld
	first, second := w.common(t), w.sandbox(t, "neighbour")
	mine := w.writable(t, first)
	if len(mine) == 0 {
		t.Fatal("no file is open for writing; the comparison would prove nothing")
	}
	for path := range w.writable(t, second) {
		if mine[path] {
			t.Errorf("both hold %s open for writing", path)
		}
	}
}

// writable are the regular files that the sandbox's processes may write to, by device
// and inode: in a cage they have other names.
func (w *world) writable(t *testing.T, name string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, pid := range []int{w.supervisor(t, name), w.monitor(t, name)} {
		folder := filepath.Join("/proc", strconv.Itoa(pid))
		fds, err := os.ReadDir(filepath.Join(folder, "fd"))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			path, _ := os.Readlink(filepath.Join(folder, "fd", fd.Name()))
			info, err := os.Stat(filepath.Join(folder, "fd", fd.Name()))
			if err == nil && filepath.IsAbs(path) && info.Mode().IsRegular() && opensForWriting(filepath.Join(folder, "fdinfo", fd.Name())) {
				stat := info.Sys().(*syscall.Stat_t)
				found[fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)] = true
			}
		}
	}
	return found
}

// opensForWriting reads the access mode, the last octal digit of proc(5)'s flags.
func opensForWriting(fdinfo string) bool {
	raw, _ := os.ReadFile(fdinfo)
	for line := range strings.Lines(string(raw)) {
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			mode, err := strconv.ParseInt(strings.TrimSpace(flags), 8, 64)
			return err == nil && mode&3 != 0
		}
	}
	return false
}
