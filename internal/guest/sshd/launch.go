//go:build linux

package sshd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/guest/program"
	"github.com/smolvm/smolvm/internal/guest/reap"
)

// output is what of a program's is still to be copied to the client.
type output struct {
	readers []*os.File // our ends, in the poller
	input   *os.File   // our end of its standard input, or the terminal
	ended   chan struct{}
	copies  sync.WaitGroup
}

// copyTo copies until the end. Once the program has ended, silence is an end
// too: what it wrote is in the pipe by then, and only its left-over children,
// which must not keep the client, can hold the pipe open.
func (o *output) copyTo(to io.Writer, from *os.File) {
	buffer := make([]byte, 32<<10)
	for {
		ended := o.hasEnded()
		if ended {
			_ = from.SetReadDeadline(time.Now().Add(drainTime))
		}
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close() // the client is gone: the program shall see it
				return
			}
		}
		if err != nil && (ended || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return
		}
	}
}

func (o *output) hasEnded() bool {
	select {
	case <-o.ended:
		return true
	default:
		return false
	}
}

// drain lets the last output through. It is called once, after the program has ended.
func (o *output) drain() {
	close(o.ended)
	for _, reader := range o.readers {
		_ = reader.SetReadDeadline(time.Now()) // wakes those who wait
	}
	o.copies.Wait()
}

// launch starts the program on a terminal or on three pipes.
func (s *session) launch() error {
	p := s.program
	var theirs [3]*os.File
	var err error
	if s.pty != nil {
		theirs = [3]*os.File{s.pty.slave, s.pty.slave, s.pty.slave}
		p.output = &output{readers: []*os.File{s.pty.master}, input: s.pty.master, ended: make(chan struct{})}
	} else if theirs, p.output, err = makePipes(); err != nil {
		return err
	}
	p.process, err = s.spawn(theirs)
	for _, file := range theirs {
		file.Close()
	}
	if err != nil {
		p.output.close()
		return err
	}
	s.connect()
	return nil
}

// startOnTerminal starts the program on the terminal, whose output is not copied here.
func (s *session) startOnTerminal() (err error) {
	slave := s.pty.slave
	s.program.process, err = s.spawn([3]*os.File{slave, slave, slave})
	slave.Close()
	return err
}

// makePipes returns the program's ends of three pipes and ours.
func makePipes() (theirs [3]*os.File, out *output, err error) {
	var all []*os.File
	pipe := func() (r, w *os.File) {
		if err != nil {
			return nil, nil
		}
		if r, w, err = os.Pipe(); err == nil {
			all = append(all, r, w)
		}
		return r, w
	}
	out = &output{ended: make(chan struct{})}
	theirs[0], out.input = pipe()
	stdout, w1 := pipe()
	stderr, w2 := pipe()
	theirs[1], theirs[2] = w1, w2
	out.readers = []*os.File{stdout, stderr}
	if err != nil {
		for _, file := range all {
			file.Close()
		}
		return theirs, nil, fmt.Errorf("make pipes: %w", err)
	}
	return theirs, out, nil
}

func (o *output) close() {
	o.input.Close()
	for _, file := range o.readers {
		file.Close()
	}
}

// spawn runs the program as its user, in a session of its own so that all of it
// can be hung up.
func (s *session) spawn(theirs [3]*os.File) (*reap.Process, error) {
	p := s.program
	attr := &syscall.ProcAttr{
		Dir: p.dir, Env: p.env,
		Files: []uintptr{theirs[0].Fd(), theirs[1].Fd(), theirs[2].Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: s.pty != nil, Ctty: 0, Credential: program.Credential(p.account)},
	}
	if s.pty != nil {
		if err := s.pty.own(p.account.UID); err != nil {
			return nil, err
		}
	}
	process, err := s.config.Start(p.path, p.argv, attr)
	if errors.Is(err, os.ErrNotExist) {
		// The program itself was looked up: this is its interpreter, or a shell.
		return nil, fmt.Errorf("%w: %w", err, program.ErrNotFound)
	}
	return process, err
}

// connect begins to copy between the client and the program.
func (s *session) connect() {
	out := s.program.output
	writers := []io.Writer{s.channel, s.channel.Stderr()}
	for i, reader := range out.readers {
		out.copies.Go(func() { out.copyTo(writers[i], reader) })
	}
	s.group.Go(func() {
		_, _ = io.CopyBuffer(onlyWriter{out.input}, onlyReader{s.channel}, make([]byte, 32<<10))
		if s.pty == nil {
			out.input.Close() // the program sees the end of its input
		}
	})
}

// onlyReader and onlyWriter hide the shortcuts io.Copy would take: a pipe cannot
// be spliced to an SSH channel, and trying costs a system call each time.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// finish waits for the program, lets its last output through and closes the channel.
func (s *session) finish() {
	p := s.program
	status := p.process.Wait()
	p.output.drain()
	sendStatus(s.channel, status)
	p.output.close()
	s.pty.close()
	s.channel.Close()
}

func sendStatus(channel ssh.Channel, status reap.Status) {
	if sig := status.Signal(); sig != 0 {
		_, _ = channel.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name     string
			Core     bool
			Message  string
			Language string
		}{signalName(sig), status.CoreDump(), "", ""}))
		return
	}
	_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status.Code())}))
}

// hangup ends what the client has left behind: SIGHUP to the whole session,
// SIGKILL to what is still there after a while. It waits for the program.
func (s *session) hangup() {
	if s.program == nil || s.program.process == nil {
		s.pty.close()
		return
	}
	p := s.program.process
	if p.SignalGroup(syscall.SIGHUP) != nil {
		return // it has ended; finish does the rest
	}
	program.SignalSession(p.Pid, syscall.SIGHUP)
	program.SignalSession(p.Pid, syscall.SIGCONT)
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-p.Done():
		if program.SignalSession(p.Pid, 0) == 0 {
			return
		}
		<-timer.C
	case <-timer.C:
	}
	_ = p.SignalGroup(syscall.SIGKILL)
	program.SignalSession(p.Pid, syscall.SIGKILL)
}
