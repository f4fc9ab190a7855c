package firecracker

// The objects of the API, as far as they are used. Firecracker refuses fields that
// it does not know, so nothing is here that its oldest version lacks.

type bootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args"`
}

type machineConfig struct {
	CPUs       int   `json:"vcpu_count"`
	MemoryMiB  int64 `json:"mem_size_mib"`
	TrackDirty bool  `json:"track_dirty_pages,omitempty"`
}

type driveConfig struct {
	ID       string `json:"drive_id"`
	Path     string `json:"path_on_host"`
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`
	Cache    string `json:"cache_type"`
}

// driveUpdate makes Firecracker look at a drive's file again.
type driveUpdate struct {
	ID   string `json:"drive_id"`
	Path string `json:"path_on_host"`
}

// Cache types: with Writeback a flush of the guest reaches the disk, with Unsafe
// Firecracker does not even offer flushes.
const (
	writeback = "Writeback"
	unsafe    = "Unsafe"
)

type vsockConfig struct {
	CID    uint32 `json:"guest_cid"`
	Socket string `json:"uds_path"`
}

type networkConfig struct {
	ID  string `json:"iface_id"`
	Tap string `json:"host_dev_name"`
	MAC string `json:"guest_mac"`
}

type balloonConfig struct {
	MiB      int64 `json:"amount_mib"`
	Deflate  bool  `json:"deflate_on_oom"`
	Interval int   `json:"stats_polling_interval_s"`
}

type entropyConfig struct{}

type action struct {
	Type string `json:"action_type"`
}

const (
	startInstance = "InstanceStart"
)

type vmState struct {
	State string `json:"state"`
}

// States that PATCH /vm takes.
const (
	paused  = "Paused"
	resumed = "Resumed"
)

type instance struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Version string `json:"vmm_version"`
}

type snapshotCreate struct {
	Type   string `json:"snapshot_type"`
	State  string `json:"snapshot_path"`
	Memory string `json:"mem_file_path"`
}

// Kinds of snapshots.
const (
	full = "Full"
	diff = "Diff"
)

type snapshotLoad struct {
	State  string        `json:"snapshot_path"`
	Memory memoryBackend `json:"mem_backend"`
	// Track is called track_dirty_pages from 1.13 on, where this name goes on working
	// until version 2.
	Track  bool `json:"enable_diff_snapshots,omitempty"`
	Resume bool `json:"resume_vm"`
}

type memoryBackend struct {
	Type string `json:"backend_type"`
	Path string `json:"backend_path"`
}

type balloonTarget struct {
	MiB int64 `json:"amount_mib"`
}

type balloonStatistics struct {
	ActualMiB int64 `json:"actual_mib"`
}
