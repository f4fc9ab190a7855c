//go:build linux

package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/wire"
)

const (
	tickMS = 10  // of /proc/stat: USER_HZ is 100 on all of Linux's architectures that we have
	sector = 512 // of /proc/diskstats, whatever the drive's own are
)

// Read looks at what the machine uses now.
func (s *Server) Read() (wire.Usage, error) {
	var u wire.Usage
	for name, take := range map[string]func(*wire.Usage, string) error{
		"uptime": takeUptime, "stat": takeStat, "meminfo": takeMemory, "diskstats": takeDrives, "net/dev": takeNet,
	} {
		text, err := os.ReadFile(filepath.Join(s.proc, name))
		if err != nil {
			return u, err
		}
		if err := take(&u, string(text)); err != nil {
			return u, fmt.Errorf("read /proc/%s: %w", name, err)
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.disk, &disk); err != nil {
		return u, fmt.Errorf("measure the disk: %w", err)
	}
	u.Disk = int64(disk.Blocks) * disk.Bsize
	u.DiskUsed = int64(disk.Blocks-disk.Bfree) * disk.Bsize
	u.Processes = s.processes()
	return u, nil
}

// processes counts those that run a program: threads of the kernel have no memory.
func (s *Server) processes() int {
	found, _ := filepath.Glob(filepath.Join(s.proc, "[0-9]*", "statm"))
	count := 0
	for _, path := range found {
		if text, err := os.ReadFile(path); err == nil && !strings.HasPrefix(string(text), "0 ") {
			count++
		}
	}
	return count
}

func takeUptime(u *wire.Usage, text string) error {
	var seconds float64
	if _, err := fmt.Sscan(text, &seconds); err != nil {
		return err
	}
	u.UptimeMS = int64(seconds * 1000)
	return nil
}

// takeStat adds what the processors did for programs and the kernel: all but idle
// and iowait, and steal, which is the host's.
func takeStat(u *wire.Usage, text string) error {
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			u.CPUs++
			continue
		}
		n, err := numbers(fields[1:])
		if err != nil || len(n) < 7 {
			return fmt.Errorf("line %q", line)
		}
		u.CPUMS = (n[0] + n[1] + n[2] + n[5] + n[6]) * tickMS
	}
	return nil
}

func takeMemory(u *wire.Usage, text string) error {
	kib := map[string]int64{}
	for _, line := range strings.Split(text, "\n") {
		name, rest, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
			kib[name] = n
		}
	}
	u.Memory, u.MemoryUsed = kib["MemTotal"]<<10, (kib["MemTotal"]-kib["MemAvailable"])<<10
	return nil
}

// takeDrives adds the drives of the machine; what lies on them, such as loop
// devices, would count twice.
func takeDrives(u *wire.Usage, text string) error {
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 10 || !strings.HasPrefix(fields[2], "vd") {
			continue
		}
		n, err := numbers(fields[3:10])
		if err != nil {
			return fmt.Errorf("line %q", line)
		}
		u.DiskRead += n[2] * sector
		u.DiskWritten += n[6] * sector
	}
	return nil
}

// takeNet adds the machine's cards: bridges and what is behind them pass on the same bytes.
func takeNet(u *wire.Usage, text string) error {
	for _, line := range strings.Split(text, "\n") {
		name, rest, found := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !found || len(fields) < 9 || !strings.HasPrefix(name, "e") {
			continue
		}
		n, err := numbers(fields[:9])
		if err != nil {
			return fmt.Errorf("line %q", line)
		}
		u.NetReceived += n[0]
		u.NetSent += n[8]
	}
	return nil
}

func numbers(fields []string) ([]int64, error) {
	all := make([]int64, len(fields))
	for i, field := range fields {
		var err error
		if all[i], err = strconv.ParseInt(field, 10, 64); err != nil {
			return nil, err
		}
	}
	return all, nil
}
