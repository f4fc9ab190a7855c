//go:build linux

package sshd

import (
	"errors"
	"fmt"
	"io"

	"github.com/pkg/sftp"
)

// ServeSFTP serves SFTP on a pair of streams until the client is done. It runs
// in a process of the session's user, so that the kernel decides what may be
// touched. Relative names are below home.
func ServeSFTP(in io.Reader, out io.WriteCloser, home string) error {
	server, err := sftp.NewServer(stdio{in, out}, sftp.WithServerWorkingDirectory(home))
	if err != nil {
		return fmt.Errorf("serve sftp: %w", err)
	}
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serve sftp: %w", err)
	}
	return server.Close()
}

type stdio struct {
	io.Reader
	io.WriteCloser
}
