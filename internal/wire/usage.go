package wire

import "time"

// Bounds of UsageRequest.Every.
const (
	MinUsage = 100 * time.Millisecond
	MaxUsage = time.Hour
)

// UsageRequest is the first line of a usage stream. The guest answers with a line
// that is the JSON of a Usage, at once and then every so often, until the stream is
// closed. It looks at nothing while no such stream is open.
type UsageRequest struct {
	EveryMS int64 `json:"every_ms"`
}

// Usage is what a guest uses at a moment, and what it has used since it booted.
type Usage struct {
	UptimeMS int64 `json:"uptime_ms"`
	// CPUMS is the time that its processors worked, all together, of the host's or for
	// the host's own ends excluded.
	CPUMS       int64 `json:"cpu_ms"`
	CPUs        int   `json:"cpus"`
	Memory      int64 `json:"memory"`       // bytes that it has
	MemoryUsed  int64 `json:"memory_used"`  // bytes that are not available
	Disk        int64 `json:"disk"`         // bytes of the scratch's file system
	DiskUsed    int64 `json:"disk_used"`    // bytes of it
	DiskRead    int64 `json:"disk_read"`    // bytes since the boot, of all drives
	DiskWritten int64 `json:"disk_written"` // the same
	NetReceived int64 `json:"net_received"` // the same, without the loopback
	NetSent     int64 `json:"net_sent"`     // the same
	Processes   int   `json:"processes"`    // without threads of the kernel
}

// Sane tells whether the numbers can be true: a guest may say anything.
func (u Usage) Sane() bool {
	for _, n := range []int64{
		u.UptimeMS, u.CPUMS, int64(u.CPUs), u.Memory, u.MemoryUsed, u.Disk, u.DiskUsed, u.DiskRead, u.DiskWritten, u.NetReceived, u.NetSent, int64(u.Processes),
	} {
		if n < 0 {
			return false
		}
	}
	return u.MemoryUsed <= u.Memory && u.DiskUsed <= u.Disk
}
