//go:build !linux

package process

import (
	"errors"
	"os/exec"
)

// InNamespaces is for Linux: starting cmd fails elsewhere.
func InNamespaces(cmd *exec.Cmd) { cmd.Err = errors.New("namespaces are a part of Linux") }

// InCage is for Linux: starting cmd fails elsewhere.
func InCage(cmd *exec.Cmd) { InNamespaces(cmd) }
