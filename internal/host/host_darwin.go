package host

import "golang.org/x/sys/unix"

// totalMemory is the computer's memory in bytes; 0: unknown.
func totalMemory() int64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return int64(n)
}
