package supervise

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/sshx/sshtest"
	"github.com/smolvm/smolvm/internal/wire"
)

// room is a server in front of an SSH server that runs functions.
type room struct {
	t      *testing.T
	folder string
	server *server
	stops  chan stopRequest
	over   chan struct{}
	done   chan struct{}
	end    context.CancelCauseFunc

	host, key sshx.KeyPair
	run       func(*sshtest.Process) sshx.Exit
	mu        sync.Mutex
	client    *sshx.Client
	goodbye   error        // of the guest
	stale     *sshx.Client // given out once, before client
}

func newRoom(t *testing.T, run func(*sshtest.Process) sshx.Exit) *room {
	t.Helper()
	folder, err := os.MkdirTemp("", "room") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	r := &room{t: t, folder: folder, run: run, stops: make(chan stopRequest), over: make(chan struct{}), done: make(chan struct{})}
	if r.host, err = sshx.GenerateKey(rand.Reader, "host"); err == nil {
		r.key, err = sshx.GenerateKey(rand.Reader, "client")
	}
	if err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancelCause(context.Background())
	r.end = end
	r.server = &server{
		guest: r, pulse: newPulse(func() []string { return []string{"last words"} }), status: func() Status { return Status{Name: "box", Ready: true} }, stops: r.stops, over: r.over, done: r.done,
		log: slog.New(slog.DiscardHandler), idle: newIdle(0, time.Now),
	}
	if err := r.server.listen(life, folder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// close ends everything and waits: whatever does not end hangs the test.
func (r *room) close() {
	r.end(errStopped)
	r.server.shut()
	select {
	case <-r.done:
	default:
		close(r.done)
	}
	r.server.wait()
	if r.client != nil {
		_ = r.client.Close()
	}
}

func (r *room) stream(context.Context, wire.StreamKind) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	theirs, err := l.Accept()
	if err != nil {
		return nil, err
	}
	go func() {
		_ = sshtest.Server{HostKey: r.host.PrivatePEM, Authorized: r.key.AuthorizedKey, Run: r.run}.Serve(theirs)
		_ = theirs.Close()
	}()
	return ours, nil
}

func (r *room) farewell(*sshx.Client, time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.goodbye
}

func (r *room) session(ctx context.Context) (*sshx.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if stale := r.stale; stale != nil {
		r.stale = nil
		return stale, nil
	}
	if r.client != nil {
		return r.client, nil
	}
	conn, err := r.stream(ctx, wire.StreamSSH)
	if err != nil {
		return nil, err
	}
	r.client, err = sshx.Connect(ctx, conn, sshx.Config{User: "agent", ClientKey: r.key.PrivatePEM, HostKey: r.host.AuthorizedKey})
	return r.client, err
}

func (r *room) dial() *Client {
	r.t.Helper()
	c, err := Dial(r.t.Context(), filepath.Join(r.folder, SocketName))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func cat(p *sshtest.Process) sshx.Exit {
	n, _ := io.Copy(p.Stdout, p.Stdin)
	fmt.Fprintf(p.Stderr, "%d", n)
	return sshx.Exit{Status: 3}
}

// TestExecBytes sends 10 MB through a program and takes them back.
func TestExecBytes(t *testing.T) {
	c := newRoom(t, cat).dial()
	data := make([]byte, 10<<20)
	_, _ = rand.Read(data)
	var out, errs bytes.Buffer
	status, err := c.Exec(t.Context(), Command{}, Streams{In: bytes.NewReader(data), Out: &out, Err: &errs})
	if err != nil || status != 3 || !bytes.Equal(out.Bytes(), data) || errs.String() != fmt.Sprint(len(data)) {
		t.Errorf("%d, %v, %d bytes back, err %q", status, err, out.Len(), &errs)
	}
}

// TestMachineEndsPrograms: what a machine ended with itself has no status of its own.
func TestMachineEndsPrograms(t *testing.T) {
	for _, c := range []struct {
		exit    sshx.Exit
		keep    bool
		stopped bool
	}{
		{sshx.Exit{Signal: "HUP"}, false, true},
		{sshx.Exit{Status: 143}, false, true}, // a shell whose command got the signal
		{sshx.Exit{Status: 0}, true, true},    // an agent that heeds it
		{sshx.Exit{Status: 0}, false, false},  // poweroff itself
		{sshx.Exit{Status: 3}, false, false},
	} {
		var r *room
		r = newRoom(t, func(*sshtest.Process) sshx.Exit {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.goodbye = fault.New(fault.NotRunning, "", `sandbox "box" was stopped`)
			return c.exit
		})
		status, err := r.dial().Exec(t.Context(), Command{Start: wire.Start{Keep: c.keep}}, Streams{})
		if c.stopped && (fault.CodeOf(err) != fault.NotRunning || err.Error() != `sandbox "box" was stopped`) || !c.stopped && (err != nil || status != c.exit.Status) {
			t.Errorf("%+v: status %d, %v", c, status, err)
		}
	}
}

// TestLastAddressComesBeforeTheEnd: a program may end as soon as it has asked for a
// browser.
func TestLastAddressComesBeforeTheEnd(t *testing.T) {
	var now time.Time
	wanted := newAddresses(func() time.Time { now = now.Add(addressPause); return now })
	r := newRoom(t, func(*sshtest.Process) sshx.Exit {
		if why, ok := wanted.show("https://login.example/"); !ok || why != "" {
			t.Errorf("%v, %q", ok, why)
		}
		return sshx.Exit{}
	})
	r.server.wanted = wanted
	c := r.dial()
	for range 50 {
		shown := ""
		if _, err := c.Exec(t.Context(), Command{}, Streams{Opening: func(address string) { shown = address }}); err != nil || shown == "" {
			t.Fatalf("%v, the client was shown %q", err, shown)
		}
	}
}

// TestExecOnAConnectionThatHasEnded: the connection of a machine that was kept ends, and
// who asks in that moment is not told of it.
func TestExecOnAConnectionThatHasEnded(t *testing.T) {
	r := newRoom(t, cat)
	stale, err := r.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stale.Close()
	r.stale, r.client = stale, nil
	if status, err := r.dial().Exec(t.Context(), Command{}, Streams{}); err != nil || status != 3 {
		t.Errorf("%d, %v", status, err)
	}
}

func TestExecWithoutStreams(t *testing.T) {
	c := newRoom(t, cat).dial()
	if status, err := c.Exec(t.Context(), Command{}, Streams{}); err != nil || status != 3 {
		t.Errorf("%d, %v", status, err)
	}
}

func TestExecParallel(t *testing.T) {
	c := newRoom(t, cat).dial()
	var running sync.WaitGroup
	for i := range 20 {
		running.Go(func() {
			want := strings.Repeat(fmt.Sprint(i), 100000)
			var out bytes.Buffer
			if status, err := c.Exec(t.Context(), Command{}, Streams{In: strings.NewReader(want), Out: &out}); err != nil || status != 3 || out.String() != want {
				t.Errorf("exec %d: %d, %v, %d bytes", i, status, err, out.Len())
			}
		})
	}
	running.Wait()
}

// TestProgramThatDoesNotRead checks that signals pass, and that the client's
// hang-up is noticed, while input is stuck.
func TestProgramThatDoesNotRead(t *testing.T) {
	hung := make(chan struct{}, 1)
	r := newRoom(t, func(p *sshtest.Process) sshx.Exit {
		select {
		case name := <-p.Signals:
			return sshx.Exit{Signal: name}
		case <-p.Hangup:
			hung <- struct{}{}
			return sshx.Exit{}
		}
	})
	c := r.dial()
	signals := make(chan string, 1)
	signals <- "TERM"
	status, err := c.Exec(t.Context(), Command{}, Streams{In: endless{}, Signals: signals})
	if err != nil || status != 143 {
		t.Errorf("%d, %v", status, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Exec(ctx, Command{}, Streams{In: endless{}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	<-hung
}

// endless is an input without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestClientThatDoesNotRead checks back-pressure, and that the end of the
// sandbox does not wait for such a client.
func TestClientThatDoesNotRead(t *testing.T) {
	var mu sync.Mutex
	written := 0
	r := newRoom(t, func(p *sshtest.Process) sshx.Exit {
		for buf := make([]byte, 64<<10); ; {
			n, err := p.Stdout.Write(buf)
			mu.Lock()
			written += n
			mu.Unlock()
			if err != nil {
				return sshx.Exit{}
			}
		}
	})
	conn, err := net.Dial("unix", filepath.Join(r.folder, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out := &frameWriter{out: conn}
	if err := out.sendJSON(requested, request{Version: protocolVersion, Op: opExec, Command: &Command{}}); err != nil {
		t.Fatal(err)
	}
	before := -1
	for { // until nothing moves any more
		time.Sleep(50 * time.Millisecond)
		mu.Lock()
		now := written
		mu.Unlock()
		if now == before && now > 0 {
			break
		}
		before = now
	}
	if before > 16<<20 {
		t.Errorf("%d bytes were taken from the program", before)
	}
}

// TestMoreInputThanCredit checks that a client that ignores its credit is cut off.
func TestMoreInputThanCredit(t *testing.T) {
	hung := make(chan struct{}, 1)
	r := newRoom(t, func(p *sshtest.Process) sshx.Exit {
		<-p.Hangup
		hung <- struct{}{}
		return sshx.Exit{}
	})
	conn, err := net.Dial("unix", filepath.Join(r.folder, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, in := &frameWriter{out: conn}, &frameReader{in: conn}
	if err := out.sendJSON(requested, request{Version: protocolVersion, Op: opExec, Command: &Command{}}); err != nil {
		t.Fatal(err)
	}
	if k, _, err := in.next(); err != nil || k != accepted {
		t.Fatal(k, err)
	}
	for out.send(stdin, make([]byte, 100<<10)) == nil {
	}
	<-hung
}

func TestTerminalAndResize(t *testing.T) {
	r := newRoom(t, func(p *sshtest.Process) sshx.Exit {
		fmt.Fprintf(p.Stdout, "%s %v %v", p.TTY.Term, p.TTY.Size, <-p.Sizes)
		return sshx.Exit{}
	})
	sizes := make(chan wire.Size, 1)
	sizes <- wire.Size{Columns: 5, Rows: 6}
	var out bytes.Buffer
	_, err := r.dial().Exec(t.Context(), Command{TTY: true, Term: "vt", Size: wire.Size{Columns: 3, Rows: 4}}, Streams{Out: &out, Resize: sizes})
	if err != nil || out.String() != "vt {3 4} {5 6}" {
		t.Errorf("%q, %v", &out, err)
	}
}

// TestSandboxEnds checks what a client is told when the sandbox ends under it.
func TestSandboxEnds(t *testing.T) {
	started := make(chan struct{})
	r := newRoom(t, func(p *sshtest.Process) sshx.Exit {
		close(started)
		<-p.Hangup
		return sshx.Exit{}
	})
	c := r.dial()
	done := c.Done()
	go func() {
		<-started
		r.end(errStopped)
	}()
	_, err := c.Exec(t.Context(), Command{}, Streams{})
	if fault.CodeOf(err) != fault.NotRunning {
		t.Errorf("got %v", err)
	}
	select {
	case <-done:
		t.Error("done before the sandbox was released")
	default:
	}
	close(r.done)
	<-done
}

func TestRefusedStart(t *testing.T) {
	c := newRoom(t, cat).dial()
	_, err := c.Exec(t.Context(), Command{Start: wire.Start{Argv: []string{"refused"}}}, Streams{})
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	_, err = c.Exec(t.Context(), Command{Start: wire.Start{Argv: []string{strings.Repeat("x", 2*maxFrame)}}}, Streams{})
	if err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("got %v", err)
	}
}

func TestStopWaitsForRelease(t *testing.T) {
	r := newRoom(t, cat)
	stopped := make(chan error, 2)
	for range cap(stopped) {
		go func() { stopped <- r.dial().Stop(context.Background(), time.Second) }()
	}
	if got := <-r.stops; got.grace != time.Second {
		t.Errorf("grace %v", got.grace)
	}
	close(r.over) // the second one comes too late
	select {
	case err := <-stopped:
		t.Fatalf("stopped before the release: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(r.done)
	for range cap(stopped) {
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
}

// TestBareSSH runs a whole SSH connection through the control socket.
func TestBareSSH(t *testing.T) {
	r := newRoom(t, cat)
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- r.dial().SSH(t.Context(), theirs) }()
	client, err := sshx.Connect(t.Context(), ours, sshx.Config{User: "agent", ClientKey: r.key.PrivatePEM, HostKey: r.host.AuthorizedKey})
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Start(t.Context(), wire.Start{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(s.Stdin(), "hello")
	_ = s.CloseStdin()
	if out, _ := io.ReadAll(s.Stdout()); string(out) != "hello" {
		t.Errorf("%q", out)
	}
	_ = client.Close()
	if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

// TestBadClients checks that a client that breaks the protocol is told, or cut off.
func TestBadClients(t *testing.T) {
	r := newRoom(t, cat)
	for name, send := range map[string]func(*frameWriter) error{
		"other version": func(w *frameWriter) error { return w.sendJSON(requested, request{Version: 99, Op: opStatus}) },
		"unknown op":    func(w *frameWriter) error { return w.sendJSON(requested, request{Version: 1, Op: "dance"}) },
		"no request":    func(w *frameWriter) error { return w.send(stdin, []byte("x")) },
	} {
		conn, err := net.Dial("unix", filepath.Join(r.folder, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		if err := send(&frameWriter{out: conn}); err != nil {
			t.Fatal(err)
		}
		k, payload, err := (&frameReader{in: conn}).next()
		if err != nil || k != failed || decodeFailure(payload, opExec) == nil {
			t.Errorf("%s: %q, %v", name, byte(k), err)
		}
		_ = conn.Close()
	}
	if info, err := os.Stat(filepath.Join(r.folder, SocketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", info.Mode(), err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	folder := t.TempDir()
	_, err := Dial(t.Context(), filepath.Join(folder, "none"))
	if fault.CodeOf(err) != fault.NotRunning {
		t.Errorf("no socket: %v", err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder, "stale"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	if _, err := Dial(t.Context(), filepath.Join(folder, "stale")); fault.CodeOf(err) != fault.NotRunning {
		t.Errorf("a stale socket: %v", err)
	}
}
