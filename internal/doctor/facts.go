package doctor

import (
	"io/fs"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/host"
)

// Facts are what was found out about a computer.
type Facts struct {
	Host   host.Info
	Survey host.Survey
	User   string // name of the user
	Root   bool   // the user is root

	Emulator      string // such as "QEMU 7.2.22 (/usr/bin/qemu-system-x86_64)"
	EmulatorError error  // why there is none that can be used

	Firecracker      string // such as "Firecracker 1.12.1 (/usr/bin/firecracker)"
	FirecrackerSum   string // SHA-256 of its file
	FirecrackerKnown string // whose build that is; empty: none of those known here
	FirecrackerError error  // why there is none that can be used
	FirecrackerNamed bool   // a flag or a setting names it

	VMM          string // what would run a sandbox: qemu or firecracker
	Backend      string // the same, and why
	BackendFix   string // what would let Firecracker be used; empty: nothing is known, or it is
	BackendError error  // why the wanted one cannot be used

	KVM  host.Verdict
	Boot Boot

	Formatter error // why there is no mkfs.ext4

	Home      Home
	Catalogue Catalogue

	OwnBuilds bool  // SMOLVM_USE_PUBLISHED is 0: images are built here
	Builders  error // what is missing for building a base here; nil: nothing

	Proxy        string // the proxy that is in force, without password; empty: none
	ProxyFlag    string // of start, without which sandboxes do not reach it; empty: they do
	Ping         error  // why ordinary users cannot send pings; nil: they can
	Certificates int    // certificates that this computer trusts beyond the usual ones
	CertError    error

	Namespaces error          // why no cage for a VMM could be made; nil: one was
	Groups     cgroup.Outlook // the control group that a sandbox gets
	Now        time.Time
	Built      time.Time // when this program was built
}

// Boot is a guest that was really started.
type Boot struct {
	Accel  string        // kvm, tcg, hvf
	Took   time.Duration // from the start of the VMM to the guest's own program
	Kernel string        // uname -r
	Err    error         // why it did not come up
	Why    string        // why none was started; empty: one was
}

// Home is the state folder.
type Home struct {
	Path   string
	Exists bool
	Mode   fs.FileMode // permission bits
	Err    error       // why it cannot be used
	Folder host.Folder
}

// Catalogue is where images come from.
type Catalogue struct {
	Address string // empty: none is named
	Err     error
	Release string
	Signers []string
	Expires time.Time
	Expired bool
	Image   bool  // it has an image of Claude Code for this computer
	Base    bool  // it has a base for this computer, on which images can be built
	Made    bool  // an image of Claude Code was built on it here
	Missing int64 // bytes of it to download; 0: all is here
	Expands int64 // bytes that the missing part has once expanded
}
