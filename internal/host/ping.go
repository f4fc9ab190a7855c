package host

import (
	"runtime"
	"syscall"

	"github.com/smolvm/smolvm/internal/fault"
)

// Ping tells why ordinary users cannot send pings on this computer, nil where they
// can. It sends none.
func Ping() error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, syscall.IPPROTO_ICMP)
	if err == nil {
		return syscall.Close(fd)
	}
	hint := ""
	if runtime.GOOS == "linux" {
		hint = `sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"`
	}
	return fault.New(fault.Host, hint, "this computer lets ordinary users send no pings: %w", err)
}
