package store

import (
	"math"

	"golang.org/x/sys/unix"
)

// fileTime is the time with which the kernel stamps files now, in ns.
func fileTime() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
		return math.MaxInt64
	}
	return now.Nano()
}
