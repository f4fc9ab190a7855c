package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/port"
)

// Explain makes of a failed Add what the user needs: who has the port, and what to
// do instead.
func Explain(f port.Forward, err error) error {
	var e *Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	hint := fmt.Sprintf("Name another port of this computer, such as 0:%d for any that is free.", f.Guest)
	at := fmt.Sprintf("%s:%d", e.Address, e.Port)
	if strings.Contains(e.Address, ":") {
		at = fmt.Sprintf("[%s]:%d", e.Address, e.Port)
	}
	switch {
	case e.Taken() && e.Port == 0:
		return fault.New(fault.Host, "See what has them with ss -tan or netstat -an.", "forward port %d: this computer has no port left on %s", f.Guest, e.Address)
	case e.Taken():
		return fault.New(fault.Conflict, hint, "forward port %d: %s of this computer is taken%s", f.Guest, at, by(e))
	case errors.Is(e.Err, syscall.EACCES):
		return fault.New(fault.Host, hint, "forward port %d: only root may listen on %s", f.Guest, at)
	case absent(e.Err):
		return fault.New(fault.Host, "See its addresses with ip addr or ifconfig.", "forward port %d: this computer has no address %s", f.Guest, e.Address)
	}
	return fault.New(fault.Host, hint, "forward port %d: %w", f.Guest, err)
}

// Instead says that a forward got another port than the one it would have liked.
func Instead(f, got port.Forward) string {
	text := fmt.Sprintf("%s leads to port %d of the sandbox", got.Listens(), got.Guest)
	if f.Host < firstFree {
		return text
	}
	return fmt.Sprintf("%s is taken%s: %s", f.Listens(), by(&Error{Address: f.Addresses()[0], Port: f.Host}), text)
}

// firstFree is the first port that users other than root may listen on.
const firstFree = 1024

// by names the one who has a port, where this computer tells.
func by(e *Error) string {
	address, err := netip.ParseAddr(e.Address)
	if err != nil {
		return ""
	}
	owner, ok := host.OwnerOfPort(netip.AddrPortFrom(address, uint16(e.Port)))
	switch {
	case !ok:
		return ""
	case owner.Pid == 0 && owner.UID >= 0:
		return fmt.Sprintf(" by a program of user %d", owner.UID)
	case owner.Pid == 0:
		return ""
	}
	if name := sandbox(owner.Args); name != "" {
		return fmt.Sprintf(" by sandbox %s", name)
	}
	return fmt.Sprintf(" by %s (process %d)", program(owner.Args), owner.Pid)
}

// sandbox is the name of the sandbox whose supervisor has that command line.
func sandbox(args []string) string {
	if i := slices.Index(args, "--name"); i > 1 && i+1 < len(args) && args[1] == "supervise" {
		return args[i+1]
	}
	return ""
}

func program(args []string) string {
	if len(args) == 0 || args[0] == "" {
		return "a program"
	}
	return filepath.Base(args[0])
}
