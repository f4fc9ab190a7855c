//go:build linux

package service

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// gate is a file that is locked as long as a service has not answered on its port.
// Who wants to wait for the service takes a shared lock, which the kernel gives in
// the moment in which ours is gone. The nil gate is always open.
type gate struct{ file *os.File }

// newGate makes a closed gate. Everybody may read it, and so wait at it.
func newGate(dir, name string) (*gate, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make gate: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make gate: %w", err)
	}
	g := &gate{file}
	g.close()
	return g, nil
}

// close closes the gate again when its service has ended. Where somebody holds a
// lock at this moment it stays open: nobody may keep the services of a sandbox.
func (g *gate) close() {
	if g != nil {
		_ = syscall.Flock(int(g.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
}

func (g *gate) open() {
	if g != nil {
		_ = syscall.Flock(int(g.file.Fd()), syscall.LOCK_UN)
	}
}
