package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownerOf is the user that a file belongs to.
func ownerOf(name string) (int, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("the owner of %s is not known", name)
	}
	return int(stat.Uid), nil
}

// entersGroups tells whether programs can be started in a group (clone3 with
// CLONE_INTO_CGROUP, Linux 5.7). A call without arguments does nothing: it is refused
// as invalid where clone3 is there, and else as unknown.
func entersGroups() bool {
	if _, _, no := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); no != unix.EINVAL {
		return false
	}
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 7)
}

// emptyTime bounds the wait for killed processes in milliseconds.
const emptyTime = 2000

// empty waits until no process is in the group: the kernel tells of a change in its
// events.
func (g *Group) empty() error {
	events, err := os.Open(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		text, err := io.ReadAll(io.NewSectionReader(events, 0, 4096))
		if err != nil || bytes.Contains(text, []byte("populated 0")) {
			return err
		}
		change := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		n, err := unix.Poll(change, emptyTime)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errors.New("its processes do not end")
		}
	}
}
