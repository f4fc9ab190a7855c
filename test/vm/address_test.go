//go:build vm

package vm_test

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// What a sandbox wants opened is shown on this side; what no browser should get is not.
func TestAddressesAreShown(t *testing.T) {
	w := theWorld
	name := w.common(t)
	const address = "https://login.example/device?code=AB-CD"
	for _, script := range []string{"xdg-open '" + address + "'", `sleep 1; "$BROWSER" '` + address + "'"} {
		if r := w.run(t, nil, "exec", name, "--", "sh", "-c", script); r.status != 0 || !strings.Contains(r.stderr, address) {
			t.Errorf("%s: status %d, %q", script, r.status, r.stderr)
		}
	}
	if r := w.run(t, nil, "exec", name, "--", "xdg-open", "file:///etc/passwd"); r.status == 0 || strings.Contains(r.stderr, "wants this opened") {
		t.Errorf("a file is shown: %d, %q", r.status, r.stderr)
	}
}

// A program reaches the user's SSH agent where the flag says so, and not else.
func TestSSHAgentIsForwarded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn) // an agent that says what it hears
				_ = conn.Close()
			}()
		}
	}()
	w := theWorld.as(t, t.TempDir(), "SSH_AUTH_SOCK="+socket)
	name := theWorld.common(t)
	const ask = `import os,socket
s=socket.socket(socket.AF_UNIX); s.connect(os.environ["SSH_AUTH_SOCK"]); s.sendall(b"who"); print(s.recv(3).decode())`
	if got := w.must(t, "exec", "--ssh-agent", name, "--", "python3", "-c", ask); got != "who\n" {
		t.Errorf("the agent answers %q", got)
	}
	if r := w.run(t, nil, "exec", name, "--", "sh", "-c", `test -z "$SSH_AUTH_SOCK"`); r.status != 0 {
		t.Error("without the flag there is a socket")
	}
}
