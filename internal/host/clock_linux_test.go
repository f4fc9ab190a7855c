package host

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestClockJumpsAsRoot sets the clock to what it says, which only root may: the
// kernel tells even of that, and once.
func TestClockJumpsAsRoot(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	told, done := make(chan struct{}, 100), make(chan struct{})
	go func() {
		defer close(done)
		ClockJumps(ctx, func() { told <- struct{}{} })
	}()
	defer func() {
		end()
		<-done
	}()
	time.Sleep(200 * time.Millisecond) // for the timer to be there
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_REALTIME, &now)
	if err == nil {
		err = unix.ClockSettime(unix.CLOCK_REALTIME, &now)
	}
	if errors.Is(err, unix.EPERM) {
		t.Skip("only root sets the clock")
	} else if err != nil {
		t.Fatal(err)
	}
	select {
	case <-told:
	case <-time.After(5 * time.Second):
		t.Fatal("nobody told of the jump")
	}
	time.Sleep(200 * time.Millisecond)
	if len(told) > 1 {
		t.Errorf("told %d times more", len(told))
	}
}
