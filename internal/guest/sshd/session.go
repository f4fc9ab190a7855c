//go:build linux

package sshd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

// Bounds of what a client may set.
const (
	maxEnv      = 1024
	maxEnvBytes = 512 << 10
)

// session is one session channel: at most one program.
type session struct {
	*connection
	channel ssh.Channel
	env     map[string]string
	envSize int
	pty     *pty
	program *running
	agent   *agentSocket // of the client's SSH agent; nil: it is not forwarded
	asked   bool         // the client has an SSH agent to forward
	start   wire.Start   // what was asked for
	viewer  *viewer      // of a kept session
	err     error        // why the program was not started, to be told to the client
}

func (c *connection) session(opening ssh.NewChannel) {
	channel, requests, err := opening.Accept()
	if err != nil {
		return
	}
	s := &session{connection: c, channel: channel, env: map[string]string{}}
	s.handle(requests)
}

// handle answers requests until the client is gone or the program has ended and
// its channel is closed, which also ends the requests.
func (s *session) handle(requests <-chan *ssh.Request) {
	for request := range requests {
		ok := s.request(request)
		if request.WantReply {
			_ = request.Reply(ok, nil)
		}
		// The answer goes out before the first output and before the end.
		if isStart(request.Type) && ok {
			s.begin()
		}
	}
	if s.viewer != nil {
		s.viewer.leave() // the session goes on
		return
	}
	s.hangup()
}

func isStart(kind string) bool {
	switch kind {
	case "exec", "shell", "subsystem", wire.RequestStart:
		return true
	}
	return false
}

func (s *session) request(request *ssh.Request) bool {
	if isStart(request.Type) {
		return s.prepare(request)
	}
	switch request.Type {
	case "env":
		return s.setEnv(request.Payload)
	case agentRequest:
		s.asked = s.program == nil
		return s.asked
	case "pty-req":
		return s.openPTY(request.Payload)
	case "window-change":
		return s.resize(request.Payload)
	case "signal":
		return s.signal(request.Payload)
	}
	return false
}

func (s *session) setEnv(payload []byte) bool {
	var m struct{ Name, Value string }
	if ssh.Unmarshal(payload, &m) != nil || s.program != nil {
		return false
	}
	return s.addEnv(m.Name, m.Value)
}

func (s *session) addEnv(name, value string) bool {
	s.envSize += len(name) + len(value)
	if !setup.ValidEnvName(name) || strings.ContainsRune(value, 0) || len(s.env) >= maxEnv || s.envSize > maxEnvBytes {
		return false
	}
	s.env[name] = value
	return true
}

// prepare decides what to run. A request that makes no sense is refused; a
// program that is not there is the program's own failure, with a status.
func (s *session) prepare(request *ssh.Request) bool {
	if s.program != nil || s.err != nil || s.viewer != nil {
		return false
	}
	var start wire.Start
	c := command{login: true}
	switch request.Type {
	case "exec":
		var m struct{ Command string }
		if ssh.Unmarshal(request.Payload, &m) != nil {
			return false
		}
		c = command{shell: m.Command}
	case "subsystem":
		var m struct{ Name string }
		if ssh.Unmarshal(request.Payload, &m) != nil || m.Name != "sftp" {
			return false
		}
		c = command{sftp: true}
	case wire.RequestStart:
		if len(request.Payload) > wire.MaxMessage || json.Unmarshal(request.Payload, &start) != nil {
			return false
		}
		c = command{argv: start.Argv, login: len(start.Argv) == 0}
	}
	for name, value := range start.Env {
		if !s.addEnv(name, value) {
			return false
		}
	}
	if start.User == "" {
		start.User = s.conn.User()
	}
	if s.start = start; start.Keep && s.pty == nil {
		s.err = errors.New("a session is kept only with a terminal")
		return true
	}
	if start.Keep && !start.New {
		return true // there is nothing to be started
	}
	if start.SSHAgent || s.asked {
		if s.err = s.listenAgent(start.User); s.err != nil {
			return true
		}
	}
	s.program, s.err = s.resolve(c, start.User, start.Dir)
	return true
}

// begin starts the program and, in a goroutine of the connection's, waits for it.
func (s *session) begin() {
	if s.err == nil && s.start.Keep {
		s.err = s.keep()
	} else if s.err == nil {
		s.err = s.launch()
	}
	if s.err == nil && s.agent != nil {
		s.serveAgent()
	}
	switch {
	case s.err != nil:
		s.agent.close()
		s.fail(s.err)
	case s.viewer == nil:
		s.group.Go(s.finish)
	}
}

// fail tells the client why nothing ran, with the status shells and docker use.
func (s *session) fail(err error) {
	status := uint32(126)
	if errors.Is(err, program.ErrNotFound) {
		status = 127
	}
	text := fmt.Sprintf("smolvm: %v\n", err)
	if s.pty != nil { // the client's terminal is raw
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	_, _ = io.WriteString(s.channel.Stderr(), text)
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
	s.program = nil
	s.pty.close()
	s.channel.Close()
}

func (s *session) signal(payload []byte) bool {
	var m struct{ Name string }
	if ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	sig, ok := signals[m.Name]
	if ok && s.viewer != nil {
		return s.viewer.session.signal(sig)
	}
	if !ok || s.program == nil || s.program.process == nil {
		return false
	}
	if s.pty != nil {
		// The keyboard's signals go to whatever runs in the foreground.
		if group, err := s.pty.foreground(); err == nil {
			return syscall.Kill(-group, sig) == nil
		}
	}
	return s.program.process.SignalGroup(sig) == nil
}

// signals are those of RFC 4254, section 6.10, and the common ones it lacks.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1,
	"USR2": syscall.SIGUSR2, "CONT": syscall.SIGCONT, "STOP": syscall.SIGSTOP, "TSTP": syscall.SIGTSTP,
	"WINCH": syscall.SIGWINCH, "BUS": syscall.SIGBUS, "TRAP": syscall.SIGTRAP, "SYS": syscall.SIGSYS,
	"XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ,
}

func signalName(sig syscall.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	return fmt.Sprintf("SIG%d@smolvm.dev", int(sig))
}
