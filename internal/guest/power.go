//go:build linux

package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/guest/link"
	"github.com/smolvm/smolvm/internal/wire"
)

// order says how the machine shall end.
type order int

const (
	powerOff order = iota + 1
	reboot
)

func (o order) String() string {
	if o == reboot {
		return "reboot"
	}
	return "poweroff"
}

// signalReboot is SIGRTMIN+5, by which systemd's first process is told to reboot.
const signalReboot = syscall.Signal(34 + 5)

func orderOf(sig os.Signal) order {
	if sig == signalReboot {
		return reboot
	}
	return powerOff
}

// give passes an order on unless one is already waiting.
func give(orders chan<- order, o order) {
	select {
	case orders <- o:
	default:
	}
}

// How long the parts of an orderly end may take, so that most of the half minute
// after which a host switches the machine off is left for the disks.
const (
	goodbye      = time.Second     // for the host to be told
	serviceGrace = 4 * time.Second // services after SIGTERM, before everything else
	termGrace    = 5 * time.Second // all programs after SIGTERM, services' time included
	leastGrace   = time.Second     // of that for the others in any case
	killGrace    = 2 * time.Second // after SIGKILL
)

// end stops all programs, makes the disks clean and turns the machine off or
// starts it again. It returns only if the kernel refuses.
func (a *agent) end(how order) error {
	a.farewell(wire.Message{Type: wire.Goodbye, Text: how.String()}, goodbye)
	begun := time.Now()
	a.keeper.Stop()
	a.killAll(max(leastGrace, termGrace-time.Since(begun)))
	unix.Sync()
	if a.root != nil {
		if err := a.root.Close(); err != nil {
			a.console.printf("%v", err)
		}
	}
	a.console.printf("%s", how)
	if err := unix.Reboot(a.lastCommand(how)); err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	return nil
}

// lastCommand is what the kernel is told in the end. A VMM with vsock has no switch
// that turns it off: it ends at a reset, and is told before which of both is meant.
func (a *agent) lastCommand(how order) int {
	if a.options.Vsock == "" {
		if how == reboot {
			return unix.LINUX_REBOOT_CMD_RESTART
		}
		return unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	purpose := wire.ForPowerOff
	if how == reboot {
		purpose = wire.ForReboot
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbye)
	defer cancel()
	if conn, err := link.DialVsock(ctx, a.options.Vsock, purpose, rand.Reader); err != nil {
		a.console.printf("%v", err)
	} else {
		conn.Close()
	}
	return unix.LINUX_REBOOT_CMD_RESTART
}

// killAll ends every other process of the machine. Interactive shells ignore
// SIGTERM and heed SIGHUP; stopped ones need SIGCONT to heed either.
func (a *agent) killAll(grace time.Duration) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGCONT} {
		_ = unix.Kill(-1, sig)
	}
	if a.wait(grace) {
		return
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	a.wait(killGrace)
}

// wait reports whether no process was left in time.
func (a *agent) wait(grace time.Duration) bool {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-a.reaper.Idle():
		return true
	case <-timer.C:
		return false
	}
}

// PowerCommand is what the agent's binary does under the names of the power
// commands: it tells the first process.
func PowerCommand(name string, args []string) error {
	sig := unix.SIGTERM
	if name == "reboot" {
		sig = signalReboot
	}
	for _, arg := range args {
		if name == "shutdown" && arg == "-r" {
			sig = signalReboot
		}
	}
	err := unix.Kill(1, sig)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: only root may do that: use sudo %s", name, name)
	}
	return err
}
