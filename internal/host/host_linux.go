package host

import "golang.org/x/sys/unix"

// totalMemory is the computer's memory in bytes; 0: unknown.
func totalMemory() int64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0
	}
	return int64(uint64(si.Totalram) * uint64(si.Unit))
}
