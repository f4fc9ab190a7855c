//go:build linux

package sshd

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/wire"
)

// A program that asks for it has a socket to the client's SSH agent, which goes
// with it; one that does not ask has none.
func TestAgentIsForwarded(t *testing.T) {
	w := newWorld(t)
	client := w.connect(t)
	opened := client.HandleChannelOpen(agentChannel)
	w.conns.Go(func() {
		for channel := range opened {
			conn, requests, err := channel.Accept()
			if err != nil {
				return
			}
			w.conns.Go(func() { ssh.DiscardRequests(requests) })
			w.conns.Go(func() {
				_, _ = io.Copy(conn, conn) // an agent that says what it hears
				_ = conn.Close()
			})
		}
	})
	none, _ := start(t, client, wire.Start{Argv: []string{"sh", "-c", `echo "<$SSH_AUTH_SOCK>"`}})
	if line, _ := none.ReadString('\n'); line != "<>\n" {
		t.Errorf("without asking there is %s", line)
	}
	out, in := start(t, client, wire.Start{Argv: []string{"sh", "-c", `echo "$SSH_AUTH_SOCK"; read line`}, SSHAgent: true})
	line, err := out.ReadString('\n')
	socket := strings.TrimSpace(line)
	if err != nil || !strings.HasPrefix(socket, w.sockets+"/ssh-agent-") {
		t.Fatalf("the socket is %q, %v", socket, err)
	}
	if info, err := os.Stat(socket[:strings.LastIndex(socket, "/")]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its folder is %v, %v", info, err)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make([]byte, 3)
	if _, err := io.WriteString(conn, "who"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "who" {
		t.Errorf("the agent answers %q, %v", answer, err)
	}
	_ = conn.Close()
	if err := in.Close(); err != nil { // the program ends
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = client.Close()
	w.conns.Wait()
	if left, err := os.ReadDir(w.sockets); len(left) > 0 || err != nil {
		t.Errorf("left %v, %v", left, err)
	}
}

// start starts a program and gives its output and input.
func start(t *testing.T, client *ssh.Client, s wire.Start) (*bufio.Reader, io.WriteCloser) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := session.SendRequest(wire.RequestStart, true, payload); !ok || err != nil {
		t.Fatal(ok, err)
	}
	return bufio.NewReader(out), in
}
