package wire

import "time"

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

// Changed is a message of the host: Changes were made by others than the guest.
const Changed MessageType = "changed"

// Change is a file of a mount that was changed by others than the guest. The agent
// makes its kernel forget what it knows, and then sets the modification time to
// TouchSeconds and TouchNanos, which the host takes for what it is: nothing is
// changed, but watchers in the guest are told.
type Change struct {
	ID     string `json:"id"`             // of the mount
	Folder []byte `json:"folder"`         // path of its folder below the mount; empty: the mount
	Name   []byte `json:"name"`           // in the folder
	Parent uint64 `json:"parent"`         // the folder's node
	Node   uint64 `json:"node,omitempty"` // the file's; zero: it is new, or gone
	Gone   bool   `json:"gone,omitempty"`
}

// A time that no file has, to the nanosecond.
const (
	TouchSeconds = -62_135_596_812
	TouchNanos   = 424_242_424
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

// Foretold is the error field of a message that the host sends ahead of an answer,
// with the answer's number: it answers what the guest's kernel is going to ask
// next, so that the agent can do so without asking the host. A body follows:
// operation (4 bytes), 4 zeros, node, open file (8 bytes each, the latter for
// reads), and the answer's own body. FUSE's errors are zero or negative, so no
// kernel takes it for an answer.
const Foretold = 0x534d

// ForetoldHead is the length of what precedes the foretold answer's own body.
const ForetoldHead = 24

// MountFresh is how long the guest may believe what it was told of names and
// attributes: changes made by the host have to show within a second.
const MountFresh = 800 * time.Millisecond

// Operations of FUSE that both ends treat specially.
const (
	FuseGetattr = 3
	FuseRead    = 15
)
