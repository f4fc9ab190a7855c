// Package sshtest is an SSH server for tests of the host's end: it runs
// functions of the test instead of programs. It is imported by tests only.
package sshtest

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/wire"
)

// Process is what a program has.
type Process struct {
	Start          wire.Start
	TTY            *sshx.TTY // nil: three pipes
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Sizes          <-chan wire.Size
	Signals        <-chan string
	Hangup         <-chan struct{} // closed when the client is gone
}

// Server is one server's configuration.
type Server struct {
	HostKey    string // private, PEM
	Authorized string // the one key let in
	// Run runs a program; an Exit with a Signal is reported as such.
	Run func(*Process) sshx.Exit
}

// Serve serves one connection to its end.
func (s Server) Serve(conn net.Conn) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(requests)
	var running sync.WaitGroup
	defer running.Wait()
	defer server.Close()
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		running.Go(func() { s.session(channel) })
	}
	return nil
}

func (s Server) config() (*ssh.ServerConfig, error) {
	host, err := ssh.ParsePrivateKey([]byte(s.HostKey))
	if err != nil {
		return nil, err
	}
	known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.Authorized))
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(known.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	return config, nil
}

func (s Server) session(opening ssh.NewChannel) {
	channel, requests, err := opening.Accept()
	if err != nil {
		return
	}
	sizes, signals, hangup := make(chan wire.Size, 16), make(chan string, 16), make(chan struct{})
	p := &Process{Stdin: channel, Stdout: channel, Stderr: channel.Stderr(), Sizes: sizes, Signals: signals, Hangup: hangup}
	var running sync.WaitGroup
	defer running.Wait()
	defer close(hangup)
	for r := range requests {
		ok := s.request(p, r, sizes, signals)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if r.Type == wire.RequestStart && ok {
			running.Go(func() { finish(channel, s.Run(p)) })
		}
	}
}

func (s Server) request(p *Process, r *ssh.Request, sizes chan<- wire.Size, signals chan<- string) bool {
	switch r.Type {
	case wire.RequestStart:
		return json.Unmarshal(r.Payload, &p.Start) == nil && (len(p.Start.Argv) == 0 || p.Start.Argv[0] != "refused")
	case "pty-req":
		var m struct {
			Term                         string
			Columns, Rows, Width, Height uint32
			Modes                        string
		}
		if ssh.Unmarshal(r.Payload, &m) != nil {
			return false
		}
		p.TTY = &sshx.TTY{Term: m.Term, Size: wire.Size{Columns: uint16(m.Columns), Rows: uint16(m.Rows)}}
		return true
	case "window-change":
		var m struct{ Columns, Rows, Width, Height uint32 }
		if ssh.Unmarshal(r.Payload, &m) == nil {
			sizes <- wire.Size{Columns: uint16(m.Columns), Rows: uint16(m.Rows)}
		}
	case "signal":
		var m struct{ Name string }
		if ssh.Unmarshal(r.Payload, &m) == nil {
			signals <- m.Name
		}
	}
	return true
}

// Vanish is the exit of a program whose session ends without a status.
var Vanish = sshx.Exit{Status: -1}

func finish(channel ssh.Channel, exit sshx.Exit) {
	switch {
	case exit == Vanish:
	case exit.Signal != "":
		_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal      string
			Core        bool
			Error, Lang string
		}{Signal: exit.Signal}))
	default:
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(exit.Status)}))
	}
	_ = channel.Close()
}
