package wire

// PortRequest is the first line of a port stream, JSON of at most MaxMessage
// bytes. The guest answers with one line, the JSON of a PortAnswer. After a dial
// that went well the bytes of the room carry follow in both directions.
type PortRequest struct {
	Op   PortOp `json:"op"`
	Port int    `json:"port,omitempty"` // to dial, on the guest's loopback
}

// PortOp is what to do about ports.
type PortOp string

// The values of PortOp.
const (
	PortDial PortOp = "dial"
	PortList PortOp = "list" // who listens
)

// PortAnswer is the guest's answer.
type PortAnswer struct {
	Error     string      `json:"error,omitempty"`
	Listening []Listening `json:"listening,omitempty"`
}

// Listening is a TCP port that a program of the guest listens on.
type Listening struct {
	Port    int    `json:"port"`
	Address string `json:"address"`
	Program string `json:"program"` // empty: unknown
}

// MaxListening is how many ports an answer has at most.
const MaxListening = 256
