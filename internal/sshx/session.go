package sshx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/wire"
)

// TTY asks for a pseudo-terminal.
type TTY struct {
	Term string // value of TERM
	Size wire.Size
}

// Exit is how a program ended.
type Exit struct {
	Status int    // 128 + N when signal N ended it
	Signal string // the signal's name without SIG, where one ended it
}

// ErrLost says that a session ended without an exit status: the guest, its SSH
// server or the connection went away.
var ErrLost = errors.New("the session was lost")

// ErrEnded says that the connection ended before a session was opened on it: nothing of
// that has begun.
var ErrEnded = errors.New("the SSH connection has ended")

// signalNumbers are Linux's numbers of the signals SSH names (RFC 4254, 6.10),
// and of the others a guest may report.
var signalNumbers = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "XCPU": 24, "XFSZ": 25, "SYS": 31,
}

// otherSignal is how our guest names a signal that SSH has no name for.
const otherSignal = "SIG%d@smolvm.dev"

// signalNumber is Linux's number of a signal; 0 when the guest names none.
func signalNumber(name string) int {
	if n, ok := signalNumbers[name]; ok {
		return n
	}
	n := 0
	if _, err := fmt.Sscanf(name, otherSignal, &n); err != nil || n < 0 || n > 64 {
		return 0
	}
	return n
}

// Session is one running program. Its streams must be read to their end, or
// the program is held back; Close hangs it up.
type Session struct {
	channel ssh.Channel
	done    chan struct{} // closed when exit and err are set
	exit    Exit
	err     error
}

// Start runs a program; an empty Argv is the user's login shell. With a tty its
// stderr is part of its stdout.
func (c *Client) Start(ctx context.Context, start wire.Start, tty *TTY) (*Session, error) {
	payload, err := json.Marshal(start)
	if err != nil {
		return nil, fmt.Errorf("encode the command: %w", err)
	}
	if len(payload) > wire.MaxMessage {
		return nil, fmt.Errorf("encode the command: arguments and environment take %d bytes, the limit is %d", len(payload), wire.MaxMessage)
	}
	channel, requests, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	s := &Session{channel: channel, done: make(chan struct{})}
	go s.watch(requests)
	if err := s.begin(ctx, payload, tty); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// open opens a session channel; when ctx ends first, the channel is closed as
// soon as the guest has answered.
func (c *Client) open(ctx context.Context) (ssh.Channel, <-chan *ssh.Request, error) {
	type result struct {
		channel  ssh.Channel
		requests <-chan *ssh.Request
		err      error
	}
	opened := make(chan result)
	go func() { // ends with the answer, or with the connection
		channel, requests, err := c.conn.OpenChannel("session", nil)
		select {
		case opened <- result{channel, requests, err}:
		case <-ctx.Done():
			if err == nil {
				go ssh.DiscardRequests(requests)
				_ = channel.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		var refused *ssh.OpenChannelError
		if r.err != nil && !errors.As(r.err, &refused) {
			_ = c.Close() // it may be that what it answered was no answer
			r.err = fmt.Errorf("%w: %w", ErrEnded, r.err)
		}
		if r.err != nil {
			return nil, nil, fmt.Errorf("open an SSH session: %w", r.err)
		}
		return r.channel, r.requests, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("open an SSH session: %w", ctx.Err())
	}
}

// begin asks for the terminal and the program.
func (s *Session) begin(ctx context.Context, payload []byte, tty *TTY) error {
	stop := context.AfterFunc(ctx, func() { _ = s.channel.Close() })
	defer stop()
	if tty != nil {
		if err := s.request("pty-req", ptyRequest(*tty)); err != nil {
			return err
		}
	}
	return s.request(wire.RequestStart, payload)
}

func (s *Session) request(name string, payload []byte) error {
	ok, err := s.channel.SendRequest(name, true, payload)
	switch {
	case err != nil:
		return fmt.Errorf("ask the guest for %s: %w", name, err)
	case !ok:
		return fmt.Errorf("ask the guest for %s: refused", name)
	}
	return nil
}

// ptyRequest is the payload of RFC 4254, 6.2.
func ptyRequest(t TTY) []byte {
	return ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{t.Term, uint32(t.Size.Columns), uint32(t.Size.Rows), 0, 0, "\x00"})
}

// watch takes the exit status; the channel's end closes requests.
func (s *Session) watch(requests <-chan *ssh.Request) {
	defer close(s.done)
	s.err = ErrLost
	for r := range requests {
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				s.exit, s.err = Exit{Status: int(m.Status & 0xff)}, nil
			}
		case "exit-signal":
			var m struct {
				Signal      string
				Core        bool
				Error, Lang string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				s.exit, s.err = Exit{Status: 128 + signalNumber(m.Signal), Signal: m.Signal}, nil
			}
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

// Stdin is written to the program; Write blocks while it does not read.
func (s *Session) Stdin() io.Writer { return s.channel }

// CloseStdin gives the program the end of its input.
func (s *Session) CloseStdin() error { return s.channel.CloseWrite() }

// Stdout is what the program writes there.
func (s *Session) Stdout() io.Reader { return s.channel }

// Stderr is what the program writes there; empty with a tty.
func (s *Session) Stderr() io.Reader { return s.channel.Stderr() }

// Resize tells the terminal's new size.
func (s *Session) Resize(size wire.Size) error {
	return s.tell("window-change", ssh.Marshal(struct{ Columns, Rows, Width, Height uint32 }{
		Columns: uint32(size.Columns), Rows: uint32(size.Rows),
	}))
}

// Signal sends a signal, by its name without SIG, to the program.
func (s *Session) Signal(name string) error {
	return s.tell("signal", ssh.Marshal(struct{ Name string }{name}))
}

func (s *Session) tell(name string, payload []byte) error {
	if _, err := s.channel.SendRequest(name, false, payload); err != nil {
		return fmt.Errorf("tell the guest %s: %w", name, err)
	}
	return nil
}

// Wait returns when the program has ended, or ErrLost.
func (s *Session) Wait() (Exit, error) {
	<-s.done
	return s.exit, s.err
}

// Close hangs the program up if it still runs. It does not wait for it.
func (s *Session) Close() error {
	if err := s.channel.Close(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("close an SSH session: %w", err)
	}
	return nil
}
