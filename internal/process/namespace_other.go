//go:build !linux

package process

import (
	"errors"
	"os"
	"os/exec"
)

// InNamespaces is for Linux: starting cmd fails elsewhere.
func InNamespaces(cmd *exec.Cmd) { cmd.Err = errors.New("namespaces are a part of Linux") }

// InGroup is for Linux: starting cmd in a group fails elsewhere.
func InGroup(cmd *exec.Cmd, folder *os.File) {
	if folder != nil {
		cmd.Err = errors.New("control groups are a part of Linux")
	}
}

// InCage is for Linux: starting cmd fails elsewhere.
func InCage(cmd *exec.Cmd) { InNamespaces(cmd) }
