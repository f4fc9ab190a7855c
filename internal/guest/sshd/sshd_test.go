//go:build linux

package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

// TestMain stands in for the agent's binary under its SFTP name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == SFTPName {
		if err := ServeSFTP(os.Stdin, os.Stdout, os.Getenv("HOME")); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// world is a server and what it needs. Sessions run as the user of the test.
type world struct {
	server  *Server
	key     ssh.Signer
	host    ssh.PublicKey
	home    string
	sockets string
	conns   sync.WaitGroup
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	reaper := reap.New()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { reaper.Run(ctx) })
	w := &world{key: newKey(t), home: t.TempDir(), sockets: t.TempDir()}
	t.Cleanup(func() { w.conns.Wait(); cancel(); group.Wait() })
	host := newKey(t)
	w.host = host.PublicKey()
	var err error
	w.server, err = New(Config{
		HostKey: host, Authorized: []ssh.PublicKey{w.key.PublicKey()}, Users: []string{"agent", "root"},
		Account: func(name string) (setup.Account, error) {
			if name == "root" {
				return setup.Account{}, setup.ErrNoAccount
			}
			return setup.Account{Name: name, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: w.home, Shell: "/bin/sh"}, nil
		},
		Environment: map[string]string{"SEED": "1", "LANG": "C.UTF-8"},
		Workspace:   filepath.Join(w.home, "none"),
		Start:       reaper.Start,
		SFTP:        "/proc/self/exe",
		Run:         w.sockets,
		Now:         time.Now,
		Logf:        t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestRekey gives a server that is in use other keys.
func TestRekey(t *testing.T) {
	w := newWorld(t)
	before := w.connect(t)
	oldHost, oldKey := w.host, w.key
	host, key := newKey(t), newKey(t)
	if err := w.server.Rekey(host, nil); err == nil {
		t.Error("a server that lets nobody in was made")
	}
	if err := w.server.Rekey(host, []ssh.PublicKey{key.PublicKey()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.dial("agent", oldKey); err == nil {
		t.Error("the old host key was shown")
	}
	w.host = host.PublicKey()
	if _, err := w.dial("agent", oldKey); err == nil {
		t.Error("the old key was let in")
	}
	w.key = key
	if _, err := w.connect(t).NewSession(); err != nil {
		t.Error(err)
	}
	if _, err := before.NewSession(); err != nil {
		t.Errorf("a connection that was open before %x: %v", oldHost.Marshal()[:4], err)
	}
}

// pipe is a connection with room for what both ends of SSH send first.
func pipe() (here, there net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pipe")
		if ends[i], err = net.FileConn(file); err != nil {
			return nil, nil, err
		}
		file.Close()
	}
	return ends[0], ends[1], nil
}

// dial makes a connection whose server end ends with it.
func (w *world) dial(user string, key ssh.Signer) (*ssh.Client, error) {
	here, there, err := pipe()
	if err != nil {
		return nil, err
	}
	w.conns.Go(func() { _ = w.server.Serve(context.Background(), there) })
	conn, channels, requests, err := ssh.NewClientConn(here, "", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(w.host),
	})
	if err != nil {
		here.Close()
		return nil, err
	}
	return ssh.NewClient(conn, channels, requests), nil
}

func (w *world) connect(t *testing.T) *ssh.Client {
	t.Helper()
	client, err := w.dial("agent", w.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (w *world) session(t *testing.T) *ssh.Session {
	t.Helper()
	session, err := w.connect(t).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// run runs a shell line and returns its output and how it ended.
func (w *world) run(t *testing.T, line string) (string, error) {
	t.Helper()
	out, err := w.session(t).CombinedOutput(line)
	return string(out), err
}

func exitStatus(t *testing.T, err error) int {
	t.Helper()
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		t.Fatalf("no exit status: %v", err)
	}
	return exit.ExitStatus()
}

func TestExitStatuses(t *testing.T) {
	w := newWorld(t)
	for line, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255, "nonesuch-program": 127} {
		if _, err := w.run(t, line); exitStatus(t, err) != want {
			t.Errorf("%s: got %v, want %d", line, err, want)
		}
	}
	_, err := w.run(t, "kill -TERM $$")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("signal: got %v", err)
	}
}

func TestStreamsAreKeptApart(t *testing.T) {
	session := newWorld(t).session(t)
	var out, errOut bytes.Buffer
	session.Stdout, session.Stderr = &out, &errOut
	if err := session.Run("echo out; echo err >&2"); err != nil {
		t.Fatal(err)
	}
	if out.String() != "out\n" || errOut.String() != "err\n" {
		t.Errorf("got %q and %q", out.String(), errOut.String())
	}
}

func TestBytesComeBackExactly(t *testing.T) {
	session := newWorld(t).session(t)
	sent := make([]byte, 5<<20)
	_, _ = rand.Read(sent)
	session.Stdin = bytes.NewReader(sent)
	got, err := session.Output("cat")
	if err != nil || sha256.Sum256(got) != sha256.Sum256(sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
}

// A client that reads slowly must get all that a program wrote before it ended.
func TestOutputSurvivesTheProgram(t *testing.T) {
	session := newWorld(t).session(t)
	stdout, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	const size = 3 << 20 // more than SSH's window and the pipe hold
	if err := session.Start(fmt.Sprintf("head -c %d /dev/zero", size)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * drainTime)
	got, err := io.Copy(io.Discard, stdout)
	if err != nil || got != size || session.Wait() != nil {
		t.Errorf("%d bytes of %d, %v", got, size, err)
	}
}

func TestBackgroundProcessDoesNotKeepTheClient(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	out, err := w.run(t, "sleep 30 & echo $!")
	if err != nil || time.Since(begin) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	if _, err := w.run(t, "kill "+out); err != nil {
		t.Errorf("the background process is gone: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	w := newWorld(t)
	session := w.session(t)
	for name, value := range map[string]string{"LANG": "POSIX", "MINE": "a b\nc"} {
		if err := session.Setenv(name, value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "A=B", "A B", "1A", "Ä"} {
		if session.Setenv(name, "x") == nil {
			t.Errorf("%q accepted", name)
		}
	}
	out, err := session.Output(`echo "$SEED|$LANG|$MINE|$HOME|$USER|$LOGNAME|$SHELL|$PATH|$TERM"; pwd`)
	want := "1|POSIX|a b\nc|" + w.home + "|agent|agent|/bin/sh|" + w.home + "/.local/bin:" + program.DefaultPath + ":" + program.PowerDir + "|\n" + w.home + "\n"
	if err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestTooMuchEnvironment(t *testing.T) {
	session := newWorld(t).session(t)
	if session.Setenv("BIG", strings.Repeat("x", maxEnvBytes)) == nil {
		t.Error("accepted")
	}
}

func TestOneProgramASession(t *testing.T) {
	session := newWorld(t).session(t)
	if err := session.Start("sleep 5"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"exec", "shell", "pty-req"} {
		if ok, err := session.SendRequest(kind, true, ssh.Marshal(struct{ Command string }{"true"})); ok && err == nil {
			t.Errorf("a second %s was accepted", kind)
		}
	}
}

func TestUnknownRequestsAreRefused(t *testing.T) {
	session := newWorld(t).session(t)
	for kind, payload := range map[string][]byte{
		"x11-req": nil, "exec": {1, 2}, "env": {9}, "pty-req": {0}, "signal": nil,
		"window-change": nil, "subsystem": ssh.Marshal(struct{ Name string }{"netconf"}), wire.RequestStart: []byte("{"),
	} {
		if ok, err := session.SendRequest(kind, true, payload); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	if out, err := session.Output("echo still here"); err != nil || string(out) != "still here\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}

func TestTerminal(t *testing.T) {
	session := newWorld(t).session(t)
	stdin, _ := session.StdinPipe()
	stdout, _ := session.StdoutPipe()
	if err := session.RequestPty("vt100", 33, 101, ssh.TerminalModes{ssh.ECHO: 0, ssh.VERASE: 8}); err != nil {
		t.Fatal(err)
	}
	if err := session.Start(`tty; echo "$TERM"; stty size; stty -a | grep -o ' -echo \|erase = ^H'; read x; stty size; exit 4`); err != nil {
		t.Fatal(err)
	}
	lines := newLines(stdout)
	if got := lines.next(t); !strings.HasPrefix(got, "/dev/pts/") {
		t.Errorf("terminal is %q", got)
	}
	for _, want := range []string{"vt100", "33 101", "erase = ^H", " -echo "} {
		if got := lines.next(t); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// With an answer, unlike Session.WindowChange: requests and data are not
	// ordered among each other.
	if ok, err := session.SendRequest("window-change", true, ssh.Marshal(struct{ Columns, Rows, Width, Height uint32 }{132, 50, 0, 0})); !ok || err != nil {
		t.Fatalf("window change: %v, %v", ok, err)
	}
	if _, err := io.WriteString(stdin, "go\n"); err != nil {
		t.Fatal(err)
	}
	if got := lines.next(t); got != "50 132" {
		t.Errorf("after the change: %q", got)
	}
	if got := exitStatus(t, session.Wait()); got != 4 {
		t.Errorf("status %d", got)
	}
}

// lines reads a terminal's output line by line.
type lines struct {
	r   io.Reader
	buf []byte
}

func newLines(r io.Reader) *lines { return &lines{r: r} }

func (l *lines) next(t *testing.T) string {
	t.Helper()
	for {
		if i := bytes.IndexByte(l.buf, '\n'); i >= 0 {
			line := strings.TrimRight(string(l.buf[:i]), "\r")
			l.buf = l.buf[i+1:]
			return line
		}
		chunk := make([]byte, 4096)
		n, err := l.r.Read(chunk)
		if err != nil && n == 0 {
			t.Fatalf("output ends with %q: %v", l.buf, err)
		}
		l.buf = append(l.buf, chunk[:n]...)
	}
}

func TestSignals(t *testing.T) {
	session := newWorld(t).session(t)
	stdout, _ := session.StdoutPipe()
	if err := session.Start(`trap 'echo caught; kill $!; exit 9' USR1; echo ready; sleep 600 & wait`); err != nil {
		t.Fatal(err)
	}
	lines := newLines(stdout)
	lines.next(t)
	if ok, err := session.SendRequest("signal", true, ssh.Marshal(struct{ Name string }{"BOGUS"})); ok || err != nil {
		t.Errorf("unknown signal: %v, %v", ok, err)
	}
	if err := session.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := lines.next(t); got != "caught" {
		t.Errorf("got %q", got)
	}
	if got := exitStatus(t, session.Wait()); got != 9 {
		t.Errorf("status %d", got)
	}
}

func TestVanishedClientIsHungUp(t *testing.T) {
	w := newWorld(t)
	mark := filepath.Join(w.home, "hup")
	client := w.connect(t)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	stdout, _ := session.StdoutPipe()
	if err := session.Start("trap ': >" + mark + "; kill $!; exit' HUP; echo ready; sleep 600 & wait"); err != nil {
		t.Fatal(err)
	}
	newLines(stdout).next(t)
	client.Close()
	w.conns.Wait() // the server has waited for its programs
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("no hang-up: %v", err)
	}
}

func TestWrongKeysAndUsers(t *testing.T) {
	w := newWorld(t)
	if client, err := w.dial("agent", newKey(t)); err == nil {
		client.Close()
		t.Error("another key was accepted")
	}
	if client, err := w.dial("daemon", w.key); err == nil {
		client.Close()
		t.Error("another user was accepted")
	}
	here, there, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.conns.Go(func() { _ = w.server.Serve(context.Background(), there) })
	defer here.Close()
	_, _, _, err = ssh.NewClientConn(here, "", &ssh.ClientConfig{
		User: "agent", Auth: []ssh.AuthMethod{ssh.Password("")}, HostKeyCallback: ssh.FixedHostKey(w.host),
	})
	if err == nil {
		t.Error("a password was accepted")
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("without a host key")
	}
	if _, err := New(Config{HostKey: newKey(t)}); err == nil {
		t.Error("without authorized keys")
	}
}

func TestSFTP(t *testing.T) {
	w := newWorld(t)
	client, err := sftp.NewClient(w.connect(t))
	if err != nil {
		t.Fatal(err)
	}
	file, err := client.Create("below-home")
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("sftp"), 1<<18)
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(file.Close(), client.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(w.home, "below-home"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// echo serves one connection that repeats what it gets.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func TestForwardToTheGuest(t *testing.T) {
	client := newWorld(t).connect(t)
	conn, err := client.Dial("tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("forward"), 1<<16)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if _, err := client.Dial("tcp", "127.0.0.1:1"); err == nil {
		t.Error("connected to a closed port")
	}
}

func TestForwardToTheClient(t *testing.T) {
	client := newWorld(t).connect(t)
	listener, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.WriteString(conn, "hello from the client")
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello from the client" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
	if _, err := client.Listen("tcp", "127.0.0.1:"+strconv.Itoa(firstFree-1)); err == nil {
		t.Error("an ordinary user listens on a privileged port")
	}
}
