//go:build linux

package sshd

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// pty is a pseudo terminal. The nil pty may be closed.
type pty struct {
	master *os.File
	slave  *os.File
	term   string
	size   wire.Size // at first
}

// openPTY answers pty-req (RFC 4254, section 6.2).
func (s *session) openPTY(payload []byte) bool {
	var m struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if ssh.Unmarshal(payload, &m) != nil || s.pty != nil || s.program != nil {
		return false
	}
	p, err := newPTY()
	if err != nil {
		s.config.Logf("open terminal: %v", err)
		return false
	}
	p.term = m.Term
	p.size = wire.Size{Columns: clamp(m.Columns), Rows: clamp(m.Rows)}
	if p.setModes(m.Modes) != nil || p.resize(m.Columns, m.Rows, m.Width, m.Height) != nil {
		p.close()
		return false
	}
	s.pty = p
	return true
}

func newPTY() (*pty, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, fmt.Errorf("unlock terminal: %w", err)
	}
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("number of terminal: %w", err)
	}
	name := "/dev/pts/" + strconv.FormatUint(uint64(number), 10)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	return &pty{master: master, slave: slave}, nil
}

func (p *pty) close() {
	if p == nil {
		return
	}
	p.master.Close()
	p.slave.Close()
}

// own gives the terminal to the user who will work on it.
func (p *pty) own(uid uint32) error {
	if err := p.slave.Chown(int(uid), -1); err != nil && os.Getuid() == 0 {
		return fmt.Errorf("give terminal to user %d: %w", uid, err)
	}
	return nil
}

// resize answers window-change.
func (s *session) resize(payload []byte) bool {
	var m struct{ Columns, Rows, Width, Height uint32 }
	if ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	if s.viewer != nil {
		s.viewer.resize(wire.Size{Columns: clamp(m.Columns), Rows: clamp(m.Rows)})
		return true
	}
	if s.pty == nil {
		return false
	}
	return s.pty.resize(m.Columns, m.Rows, m.Width, m.Height) == nil
}

func (p *pty) resize(columns, rows, width, height uint32) error {
	size := &unix.Winsize{
		Row: clamp(rows), Col: clamp(columns), Xpixel: clamp(width), Ypixel: clamp(height),
	}
	return p.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

func clamp(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }

// foreground is the process group that has the terminal.
func (p *pty) foreground() (group int, err error) {
	err = p.control(func(fd int) error {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err == nil && group <= 1 {
			err = unix.ESRCH
		}
		return err
	})
	return group, err
}

// control calls with the master's descriptor and leaves it in the poller, which
// Fd would not.
func (p *pty) control(call func(fd int) error) error {
	raw, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = call(int(fd)) }); err != nil {
		return err
	}
	return inner
}
