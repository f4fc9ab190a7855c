package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// SocketPair makes a pair of connected stream sockets: ours, and a file for the one
// child that it is given to, which the caller closes once that was started. No other
// child inherits either.
func SocketPair(name string) (ours *net.UnixConn, theirs *os.File, err error) {
	syscall.ForkLock.RLock() // no program may be started between socketpair and close-on-exec
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair %s: %w", name, err)
	}
	near, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer func() { _ = near.Close() }() // FileConn works on a copy
	conn, err := net.FileConn(near)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make socket pair %s: %w", name, err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}
