package wire

// SharePort is the virtio-serial port that carries the mounts: after the same
// opening line as the guest link's, the bare messages of FUSE, each of which
// begins with its length.
const SharePort = "org.smolvm.share"

// OptMounts is "smolvm.mounts": the number of mounts, which are in place before
// the guest says that it is ready.
const OptMounts = "smolvm.mounts"

// The messages about mounts.
const (
	Mounts  MessageType = "mounts"  // host to guest: Mounts are all there are to be, outer ones first
	Mounted MessageType = "mounted" // guest to host: they are; else Text says which is not, and why
)

// MaxMounts is how many a sandbox may have.
const MaxMounts = 64

// Mount is a folder or file of the host in the guest.
type Mount struct {
	ID       string `json:"id"`     // the entry's name in the file system of mounts
	Target   string `json:"target"` // absolute path in the guest
	File     bool   `json:"file,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
}
