//go:build linux

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Await returns when check says true. It listens to the kernel's device events
// and calls check once at first and then after every event, so nothing is
// polled and nothing that appears in between is missed.
func Await(ctx context.Context, check func() (bool, error)) error {
	events, err := openEvents()
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		if done, err := check(); done || err != nil {
			return err
		}
		// A lost event (ENOBUFS) is no error: check looks at the state itself.
		if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("read device events: %w", err)
		}
	}
}

func openEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open device event socket: %w", err)
	}
	const kernelGroup = 1
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind device event socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "uevent"), nil
}
