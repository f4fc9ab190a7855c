//go:build linux

package guest

import (
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

// uptime is the time since the kernel started, suspension included.
func uptime() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// steps notes when each step of the boot was done.
type steps struct {
	now func() time.Duration

	mu   sync.Mutex
	done map[string]int64
}

func newSteps(now func() time.Duration) *steps {
	return &steps{now: now, done: map[string]int64{}}
}

func (s *steps) mark(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[name] = s.now().Milliseconds()
}

func (s *steps) report(version string) wire.BootReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return wire.BootReport{
		Kernel: kernelRelease(), Agent: version, UptimeMS: s.now().Milliseconds(), StepsMS: maps.Clone(s.done),
	}
}

// console prints lines in the kernel's own form. The nil console prints to
// standard error, which the kernel gave us, if it could.
type console struct{ out io.Writer }

func openConsole() *console {
	file, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	return &console{file}
}

func (c *console) printf(format string, args ...any) {
	out := io.Writer(os.Stderr)
	if c != nil {
		out = c.out
	}
	line := fmt.Sprintf(format, args...)
	fmt.Fprintf(out, "[%12.6f] smolvm-guest: %s\r\n", uptime().Seconds(), line)
}
