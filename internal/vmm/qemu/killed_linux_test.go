package qemu

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKilledParentEndsQEMU kills, as nothing could prevent, the process that
// started QEMU, and sees QEMU end.
func TestKilledParentEndsQEMU(t *testing.T) {
	needQEMU(t)
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), childVariable+"="+loop(t))
	var complaint bytes.Buffer
	parent.Stderr = &complaint
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 16)
	n, err := out.Read(line)
	if err != nil {
		t.Fatalf("the child started no machine: %v %s", err, &complaint)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	machine, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(machine) }()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	ready := []unix.PollFd{{Fd: int32(machine), Events: unix.POLLIN}}
	if n, err := unix.Poll(ready, 10_000); n != 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Fatalf("QEMU %d outlives the process that started it (%v)", pid, err)
	}
}
