package wire

// The messages about snapshots of a running machine. What is restored of one is
// another sandbox with the same memory: nobody gets in before it has an identity of
// its own.
const (
	// Hold is the host's word that the machine is about to be kept. From the guest's
	// answer on no stream is served, on this session or a later one, until Renew.
	Hold MessageType = "hold"
	Held MessageType = "held" // guest to host: it does; else Text says why not
	// Renew is the host's first word on the next session: the machine goes on, with
	// Identity as another sandbox, and UnixNano is the time. Mounts and Serial are as
	// with the message of that name, but the mounts are begun anew: the port that they
	// went through is gone, and with it what is open in them.
	Renew   MessageType = "renew"
	Renewed MessageType = "renewed" // guest to host: it does; else Text says why not, and nobody gets in
)

// Dialect is the version of all that host and guest say to each other. The guest agent
// is that of the program that started a sandbox, so both ends agree, but for a snapshot
// that is restored by another program: it is raised with each change that the older
// end would not understand.
const Dialect = 1

// LeastEntropy is the fewest random bytes of an Identity.
const LeastEntropy = 32

// Identity is what makes a restored machine a sandbox of its own. It is of the same
// form as the seed, which has the same for the machine's next boot.
type Identity struct {
	InstanceID     string   `json:"instance_id"`
	Hostname       string   `json:"hostname"`
	HostKey        string   `json:"host_key"` // private, PEM
	AuthorizedKeys []string `json:"authorized_keys"`
	// Entropy are random bytes of the host, at least LeastEntropy: what the kernel
	// would draw else is what every other machine of the snapshot draws.
	Entropy []byte `json:"entropy"`
}
