package process

import (
	"runtime"
	"syscall"
)

// bind asks for SIGKILL at the end of the calling thread, which it locks to the
// calling goroutine until release.
func bind(attr *syscall.SysProcAttr) (release func()) {
	runtime.LockOSThread()
	attr.Pdeathsig = syscall.SIGKILL
	return runtime.UnlockOSThread
}
