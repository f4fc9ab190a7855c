// Package wire is what the host and the guest agent say to each other: names on
// the kernel command line, the link's opening bytes, stream kinds, control
// messages, and the seed's document. It holds pure values only; both ends
// import it, so they can never disagree.
package wire

import "strconv"

// PortName is the virtio-serial port that carries the guest link.
const PortName = "org.smolvm.link"

// Magic opens every guest-link session. The guest writes it, followed by
// NonceLen random bytes in hexadecimal and a newline; the host drops all bytes
// before it, then echoes the same line. After that both speak yamux (the host
// is the client). The nonce tells a new boot from bytes of an earlier one.
const Magic = "SMOLVM-LINK/1 "

// NonceLen is the number of random bytes in the opening line.
const NonceLen = 16

// Kernel command line options read by the guest agent.
const (
	// OptMode is "smolvm.mode": one of the modes below; run when absent.
	OptMode = "smolvm.mode"
	// OptDrives is "smolvm.drives": the drives' roles in order, separated by
	// commas. A drive is found by its serial number (equal to its role); where the
	// VMM gives none, by its place in this list.
	OptDrives = "smolvm.drives"
	// OptEpoch is "smolvm.epoch": seconds since 1970. No file of a packed layer is
	// newer, and sessions of modes that make a layer see it as SOURCE_DATE_EPOCH.
	OptEpoch = "smolvm.epoch"
	// OptGeneration is "smolvm.generation": how often the sandbox was given other
	// layers; 0 when absent. Each generation has an upper directory of its own, those
	// of others are removed.
	OptGeneration = "smolvm.generation"
	// OptHostname is "smolvm.hostname": the host name, over the seed's, which was
	// written when the sandbox had maybe another name.
	OptHostname = "smolvm.hostname"
)

// Mode says what the guest agent does with its drives.
type Mode string

// The modes.
const (
	// ModeRun joins the layers and the scratch by overlayfs, home and workspace on
	// the scratch itself.
	ModeRun Mode = "run"
	// ModeBuild is ModeRun without separate home and workspace: all that the
	// recipe writes goes into the overlay's upper directory and so into the layer.
	ModeBuild Mode = "build"
	// ModeBootstrap has no layers: the tar archive on drive extra0 is extracted to
	// the scratch's upper directory, which becomes the root.
	ModeBootstrap Mode = "bootstrap"
	// ModePack writes the scratch's upper directory to the blank drive extra0 as
	// an ext4 file system, using the tools of the layers (or, without layers, of
	// the upper directory itself), says "packed", and powers off.
	ModePack Mode = "pack"
)

// Drive roles. Layers are LayerRole followed by their place from the bottom: layer0 is the base.
const (
	LayerRole   = "layer"
	ScratchRole = "scratch"
	SeedRole    = "seed"
	ExtraRole   = "extra0"
)

// Names of directories at the root of the scratch file system.
const (
	ScratchUpper     = "upper"
	ScratchWork      = "work"
	ScratchHome      = "home"      // bind-mounted at /home/agent
	ScratchWorkspace = "workspace" // bind-mounted at /workspace
	ScratchDocker    = "docker"    // bind-mounted at /var/lib/docker

	ScratchContainers = "containers" // bind-mounted at /var/lib/containers: Podman's
	ScratchContainerd = "containerd" // bind-mounted at /var/lib/containerd: images of newer Dockers
)

// Generation names the overlay's directory (ScratchUpper or ScratchWork) of a
// sandbox that was given other layers so often: upper, upper-1, upper-2.
func Generation(dir string, generation int) string {
	if generation == 0 {
		return dir
	}
	return dir + "-" + strconv.Itoa(generation)
}

// The user of every sandbox.
const (
	AgentUser = "agent"
	AgentUID  = 1000
	AgentHome = "/home/agent"
	Workspace = "/workspace"
)

// ModuleFolder is where the kernel's module archive (a cpio) unpacks in the initramfs.
// ModuleList in it names one module file a line, in the order of loading.
const (
	ModuleFolder = "/modules"
	ModuleList   = "/modules/order"
)

// StreamKind is the first line of every stream of the guest link, ended by '\n'.
type StreamKind string

// The stream kinds. Control is opened by the guest, once per boot, before
// anything else; it carries one JSON Message a line in both directions. The
// host opens the others.
const (
	StreamControl StreamKind = "control"
	StreamSSH     StreamKind = "ssh"   // an SSH connection, the guest is the server
	StreamBulk    StreamKind = "bulk"  // files: one line with the JSON of a Copy, then a stream of the room treecopy
	StreamGrow    StreamKind = "grow"  // one line with the JSON of a GrowRequest, and its answer
	StreamUsage   StreamKind = "usage" // one line with the JSON of a UsageRequest, then a line each time
	StreamPort    StreamKind = "port"  // one line with the JSON of a PortRequest, and its answer
)

// MaxMessage is the longest control message in bytes, its newline included.
const MaxMessage = 64 << 10

// MessageType says what a control message is about.
type MessageType string

// Messages of the guest.
const (
	Ready    MessageType = "ready"     // sessions are accepted
	Failed   MessageType = "failed"    // the sandbox cannot be brought up; Text says why
	Working  MessageType = "working"   // Text names the step, for long modes (bootstrap, pack)
	Packed   MessageType = "packed"    // pack mode is done; Bytes is the size of the file system
	Goodbye  MessageType = "goodbye"   // an orderly end follows; Text is poweroff or reboot
	PowerOff MessageType = "poweroff"  // host to guest: stop in order
	Clock    MessageType = "clock"     // host to guest: set the clock to UnixNano
	DiskFull MessageType = "disk-full" // Text says how full; empty: it has room again
	Sessions MessageType = "sessions"  // Sessions are those that are kept now; said once ready and after each change
	Memory   MessageType = "memory"    // Memory is how it is used now; said where the guest link goes by vsock
)

// Message is one control message.
type Message struct {
	Type     MessageType   `json:"type"`
	Text     string        `json:"text,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"`
	UnixNano int64         `json:"unix_nano,omitempty"`
	Boot     *BootReport   `json:"boot,omitempty"` // with Ready
	Mounts   []Mount       `json:"mounts,omitempty"`
	Changes  []Change      `json:"changes,omitempty"`
	Serial   int64         `json:"serial,omitempty"`   // with Mounts; Mounted gives it back
	Sessions []KeptSession `json:"sessions,omitempty"` // with Sessions
	Memory   *MemoryUse    `json:"memory,omitempty"`   // with Memory
	// Credentials come with GiveCredentials and Logins.
	Credentials *Credentials `json:"credentials,omitempty"`
	// Identity comes with Renew, to a machine that was restored.
	Identity *Identity `json:"identity,omitempty"`
}

// MemoryUse is a guest's memory in bytes. What a balloon holds counts as used.
type MemoryUse struct {
	Total int64 `json:"total"` // that its kernel hands out
	Free  int64 `json:"free"`  // that nobody uses, caches neither
}

// BootReport is what the guest measured and found while coming up.
type BootReport struct {
	Kernel   string           `json:"kernel"`    // uname -r
	Agent    string           `json:"agent"`     // the guest agent's version
	UptimeMS int64            `json:"uptime_ms"` // kernel's uptime when ready
	StepsMS  map[string]int64 `json:"steps_ms"`  // uptime at the end of each named step
}
