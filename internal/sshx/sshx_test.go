package sshx_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/sshx/sshtest"
	"github.com/smolvm/smolvm/internal/wire"
)

func newKey(t *testing.T) sshx.KeyPair {
	t.Helper()
	k, err := sshx.GenerateKey(rand.Reader, "someone@somewhere")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pair is a connection with room for bytes on their way: both sides of SSH speak first.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.Dial("tcp", l.Addr().String()); err == nil {
		theirs, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

// connect makes a client of a server that runs programs by run.
func connect(t *testing.T, run func(*sshtest.Process) sshx.Exit) *sshx.Client {
	t.Helper()
	host, client := newKey(t), newKey(t)
	ours, theirs := pair(t)
	served := make(chan error, 1)
	go func() {
		served <- sshtest.Server{HostKey: host.PrivatePEM, Authorized: client.AuthorizedKey, Run: run}.Serve(theirs)
	}()
	c, err := sshx.Connect(t.Context(), ours, sshx.Config{User: "agent", ClientKey: client.PrivatePEM, HostKey: host.AuthorizedKey})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		<-served
	})
	return c
}

func TestKeys(t *testing.T) {
	one := newKey(t)
	if one == newKey(t) {
		t.Fatal("two keys are equal")
	}
	signer, err := ssh.ParsePrivateKey([]byte(one.PrivatePEM))
	if err != nil {
		t.Fatal(err)
	}
	public, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(one.AuthorizedKey))
	if err != nil || comment != "someone@somewhere" || !bytes.Equal(public.Marshal(), signer.PublicKey().Marshal()) {
		t.Errorf("public half %q: %v", one.AuthorizedKey, err)
	}
	if strings.Contains(one.AuthorizedKey, "\n") {
		t.Error("the public half has more than one line")
	}
	if _, err := sshx.GenerateKey(iotest.ErrReader(io.ErrClosedPipe), ""); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("without randomness: %v", err)
	}
	seeded := func() sshx.KeyPair {
		k, err := sshx.GenerateKey(bytes.NewReader(make([]byte, 32)), "")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if first, second := seeded(), seeded(); first.AuthorizedKey != second.AuthorizedKey {
		t.Error("equal randomness gave different keys: it does not come from the reader")
	}
}

func TestKnownHosts(t *testing.T) {
	key := newKey(t)
	line, err := sshx.KnownHosts("box", key.AuthorizedKey)
	if err != nil || strings.Contains(line, "\n") || !strings.HasPrefix(line, "box ssh-ed25519 ") {
		t.Errorf("%q, %v", line, err)
	}
	if knownhosts.Normalize("box:22") != "box" {
		t.Error("clients would look for another name")
	}
	if _, err := sshx.KnownHosts("box", "no key"); err == nil {
		t.Error("a line for no key")
	}
}

// TestRefusedKeys connects with one wrong key at a time.
func TestRefusedKeys(t *testing.T) {
	host, client, other := newKey(t), newKey(t), newKey(t)
	for name, c := range map[string]struct {
		config sshx.Config
		code   fault.Code
	}{
		"host key":   {sshx.Config{User: "agent", ClientKey: client.PrivatePEM, HostKey: other.AuthorizedKey}, fault.Trust},
		"client key": {sshx.Config{User: "agent", ClientKey: other.PrivatePEM, HostKey: host.AuthorizedKey}, fault.Internal},
		"no key":     {sshx.Config{User: "agent", ClientKey: "", HostKey: host.AuthorizedKey}, fault.Internal},
		"no pin":     {sshx.Config{User: "agent", ClientKey: client.PrivatePEM}, fault.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			served := make(chan error, 1)
			go func() {
				served <- sshtest.Server{HostKey: host.PrivatePEM, Authorized: client.AuthorizedKey}.Serve(theirs)
			}()
			_, err := sshx.Connect(t.Context(), ours, c.config)
			if err == nil || fault.CodeOf(err) != c.code {
				t.Errorf("got %v (%s)", err, fault.CodeOf(err))
			}
			if err := <-served; err == nil {
				t.Error("the server let the client in")
			}
		})
	}
}

func TestConnectEndsWithContext(t *testing.T) {
	ours, theirs := pair(t)
	go func() { _, _ = io.Copy(io.Discard, theirs) }() // never answers
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	key := newKey(t)
	_, err := sshx.Connect(ctx, ours, sshx.Config{User: "agent", ClientKey: key.PrivatePEM, HostKey: key.AuthorizedKey})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestStreamsAndExit(t *testing.T) {
	c := connect(t, func(p *sshtest.Process) sshx.Exit {
		data, _ := io.ReadAll(p.Stdin)
		fmt.Fprintf(p.Stdout, "%s", bytes.ToUpper(data))
		fmt.Fprintf(p.Stderr, "%v %s %s", p.Start.Argv, p.Start.Env["A"], p.Start.User)
		return sshx.Exit{Status: 42}
	})
	s, err := c.Start(t.Context(), wire.Start{Argv: []string{"a b", "c"}, Env: map[string]string{"A": "B"}, User: "root"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(s.Stdin(), "hello")
	if err := s.CloseStdin(); err != nil {
		t.Error(err)
	}
	out, _ := io.ReadAll(s.Stdout())
	errs, _ := io.ReadAll(s.Stderr())
	exit, err := s.Wait()
	if string(out) != "HELLO" || string(errs) != "[a b c] B root" || exit.Status != 42 || err != nil {
		t.Errorf("out %q, err %q, exit %+v, %v", out, errs, exit, err)
	}
}

func TestTerminal(t *testing.T) {
	c := connect(t, func(p *sshtest.Process) sshx.Exit {
		fmt.Fprintf(p.Stdout, "%s %v %v", p.TTY.Term, p.TTY.Size, <-p.Sizes)
		return sshx.Exit{}
	})
	s, err := c.Start(t.Context(), wire.Start{}, &sshx.TTY{Term: "xterm", Size: wire.Size{Columns: 80, Rows: 24}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resize(wire.Size{Columns: 65535, Rows: 1}); err != nil {
		t.Error(err)
	}
	if out, _ := io.ReadAll(s.Stdout()); string(out) != "xterm {80 24} {65535 1}" {
		t.Errorf("%q", out)
	}
}

func TestSignals(t *testing.T) {
	c := connect(t, func(p *sshtest.Process) sshx.Exit { return sshx.Exit{Signal: <-p.Signals} })
	for name, want := range map[string]int{"INT": 130, "KILL": 137, "TERM": 143, "SIG64@smolvm.dev": 192, "nonsense": 128} {
		s, err := c.Start(t.Context(), wire.Start{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Signal(name); err != nil {
			t.Error(err)
		}
		if exit, err := s.Wait(); err != nil || exit.Status != want || exit.Signal != name {
			t.Errorf("%s: %+v, %v, want status %d", name, exit, err, want)
		}
	}
}

func TestLost(t *testing.T) {
	hung := make(chan struct{})
	c := connect(t, func(p *sshtest.Process) sshx.Exit {
		if p.Start.Argv[0] == "vanish" {
			return sshtest.Vanish
		}
		<-p.Hangup
		hung <- struct{}{}
		return sshx.Exit{}
	})
	s, err := c.Start(t.Context(), wire.Start{Argv: []string{"vanish"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(); !errors.Is(err, sshx.ErrLost) {
		t.Errorf("a session without a status: %v", err)
	}
	if s, err = c.Start(t.Context(), wire.Start{Argv: []string{"wait"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-hung // the program learns that its client is gone
	if _, err := s.Wait(); !errors.Is(err, sshx.ErrLost) {
		t.Errorf("a closed session: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	c := connect(t, func(*sshtest.Process) sshx.Exit { return sshx.Exit{} })
	if _, err := c.Start(t.Context(), wire.Start{Argv: []string{"refused"}}, nil); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a refused start: %v", err)
	}
	long := wire.Start{Argv: []string{strings.Repeat("x", wire.MaxMessage)}}
	if _, err := c.Start(t.Context(), long, nil); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a command above the limit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Start(ctx, wire.Start{}, nil); err == nil {
		t.Error("a cancelled start succeeded")
	}
	_ = c.Close()
	<-c.Done()
	if _, err := c.Start(t.Context(), wire.Start{}, nil); !errors.Is(err, sshx.ErrEnded) {
		t.Errorf("a start on a closed connection: %v", err)
	}
}
