package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ClockJumps calls tell whenever this computer's clock was set, or the computer
// slept, and returns when ctx ends. The kernel tells, so nothing is done meanwhile.
func ClockJumps(ctx context.Context, tell func()) {
	timer, err := newClockTimer()
	if err != nil { // not on this kernel
		pollClock(ctx, time.Now, tell)
		return
	}
	defer timer.Close()
	stop := context.AfterFunc(ctx, func() { _ = timer.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for ctx.Err() == nil {
		_, err := timer.Read(make([]byte, 8))
		switch {
		case errors.Is(err, unix.ECANCELED):
			tell()
		case err != nil && ctx.Err() == nil:
			pollClock(ctx, time.Now, tell)
		}
	}
}

// farFuture is when the timer would fire, in seconds since 1970: it never does.
const farFuture = 1 << 33

// newClockTimer is a timer on the wall clock that is cancelled when the clock jumps.
func newClockTimer() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch the clock: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "clock")
	at := unix.ItimerSpec{Value: unix.Timespec{Sec: farFuture}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &at, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the clock: %w", err), timer.Close())
	}
	return timer, nil
}
