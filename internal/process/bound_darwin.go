package process

import "syscall"

// bind does nothing yet: macOS has no parent-death signal.
func bind(*syscall.SysProcAttr) (release func()) { return func() {} }
