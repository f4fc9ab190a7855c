package process

import (
	"os"
	"os/exec"
	"syscall"
)

// InNamespaces makes cmd start in user, mount and network namespaces of its own,
// where the user is root and has no right outside: what a cage without root
// stands on. Starting it fails where the system forbids them.
func InNamespaces(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	attr := cmd.SysProcAttr
	attr.Cloneflags |= syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// InGroup makes cmd start in the control group whose folder is open: no moment of it
// is outside. Starting it fails where the kernel cannot do that. Without a folder it
// starts in the group of this process.
func InGroup(cmd *exec.Cmd, folder *os.File) {
	if folder == nil {
		return
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(folder.Fd())
}

// InCage makes cmd the first process of namespaces of its own of every kind that a
// machine monitor can do without: users, mounts, processes, network, semaphores and
// names. Inside, the user is root of nothing but these.
func InCage(cmd *exec.Cmd) {
	InNamespaces(cmd)
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
}
