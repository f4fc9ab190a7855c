//go:build linux

// Package terminal opens pseudo-terminals for programs that tests and tools look at.
package terminal

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Open makes a terminal of a size. Programs get slave, which the caller closes once
// they have it; what they write is read from master, which is closed last.
func Open(rows, columns uint16) (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	number := 0
	err = control(master, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err == nil {
		err = Resize(master, rows, columns)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", errors.Join(err, master.Close()))
	}
	return master, slave, nil
}

// Resize gives a terminal another size, of which its programs are told.
func Resize(master *os.File, rows, columns uint16) error {
	return control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
}

// control does something with the descriptor, and leaves the file one whose Close
// ends a Read: Fd would not.
func control(terminal *os.File, do func(fd int) error) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}
