package supervise

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// The versions of the control socket. A request has the version that its operation
// came with, so a client is understood by every supervisor that is old enough to
// have the operation at all; a supervisor takes all versions from the oldest to its
// own. The frames' form, the request's fields version and op, and the first words of
// the two refusals below never change.
const (
	oldestProtocol  = 1
	protocolVersion = 4
)

// since is the version that a request needs: that of its operation, or of a field
// that must not be overlooked.
func (r request) since() int {
	if r.Network != nil && r.Network.Rate != nil {
		return 3
	}
	return r.Op.since()
}

// since is the version that an operation came with.
func (o operation) since() int {
	switch o {
	case opWake, opVariables, opUsage, opGrow:
		return 2
	case opSnapshot:
		return 4
	}
	return 1
}

// What the refusals of a supervisor begin with that is too old, or too new, for a
// request.
const (
	unknownOperation = "unknown operation"
	otherProtocol    = "its supervisor speaks version"
)

// errOther turns a refusal of another version's supervisor into what to do; nil: it
// is none.
func errOther(op operation, refusal string) error {
	if !strings.HasPrefix(refusal, unknownOperation) && !strings.HasPrefix(refusal, otherProtocol) {
		return nil
	}
	what := map[operation]string{
		opMounts: "change the mounts of a running sandbox", opRename: "rename a running sandbox",
		opNetwork: "change the network of a running sandbox", opPort: "forward ports of a running sandbox",
		opBulk: "copy files", opGive: "give a running sandbox credentials", opWake: "keep an unused sandbox or stop it",
		opLoopback: "carry the answer of a login", opVariables: "change the variables of a running sandbox's agent",
		opUsage: "tell what it uses", opGrow: "grow the disk of a running sandbox",
		opSnapshot: "keep a running sandbox, or fork it",
	}[op]
	if what == "" {
		what = string(op)
	}
	return fault.New(fault.Conflict, "Stop and start it: it keeps its files.",
		"the sandbox was started by another version of smolvm, which cannot %s", what)
}

// SocketName is the control socket's file in the sandbox's run folder.
const SocketName = "control"

// operation is what a client asks of a supervisor.
type operation string

const (
	opStatus    operation = "status"
	opStop      operation = "stop"
	opExec      operation = "exec"
	opSSH       operation = "ssh"
	opBulk      operation = "bulk"  // files, see wire.Copy
	opWatch     operation = "watch" // nothing but the end of the connection
	opRename    operation = "rename"
	opGive      operation = "give"   // credentials
	opLogins    operation = "logins" // how the login files are now
	opPort      operation = "port"   // forwarded ports, see PortRequest
	opMounts    operation = "mounts"
	opNetwork   operation = "network"
	opLoopback  operation = "loopback"  // raw bytes of a port of the guest's loopback
	opWake      operation = "wake"      // somebody is about to use the sandbox
	opVariables operation = "variables" // of the agent
	opUsage     operation = "usage"     // of CPU, memory, disk and network
	opGrow      operation = "grow"      // the disk
	opSnapshot  operation = "snapshot"  // keep the machine and its disk
)

// request is a client's first frame.
type request struct {
	Version     int                `json:"version"`
	Op          operation          `json:"op"`
	Grace       time.Duration      `json:"grace_ns,omitempty"`    // stop
	Command     *Command           `json:"command,omitempty"`     // exec
	Network     *egress.Change     `json:"network,omitempty"`     // network
	Copy        *wire.Copy         `json:"copy,omitempty"`        // bulk
	Name        string             `json:"name,omitempty"`        // rename: the new one
	Credentials *wire.Credentials  `json:"credentials,omitempty"` // give
	Port        *PortRequest       `json:"port,omitempty"`        // port
	Mounts      *MountChange       `json:"mounts,omitempty"`      // mounts
	Variables   *Variables         `json:"variables,omitempty"`   // variables
	Loopback    int                `json:"loopback,omitempty"`    // loopback: the port
	Keep        *bool              `json:"keep,omitempty"`        // wake: whether it runs on unused; nil leaves it
	Bytes       int64              `json:"bytes,omitempty"`       // grow: how large
	Usage       *wire.UsageRequest `json:"usage,omitempty"`       // usage
	Snapshot    *Snapshot          `json:"snapshot,omitempty"`    // snapshot
}

// Command is a program to run in the sandbox.
type Command struct {
	wire.Start
	TTY  bool      `json:"tty,omitempty"`
	Term string    `json:"term,omitempty"` // TERM, with a TTY
	Size wire.Size `json:"size,omitzero"`  // of the TTY
	// SSHAgentAt is the socket of the user's SSH agent; empty: it is not forwarded.
	SSHAgentAt string `json:"ssh_agent_at,omitempty"`
	// Addresses says that the client shows what the guest wants opened.
	Addresses bool `json:"addresses,omitempty"`
}

// Status is what a supervisor says of its sandbox.
type Status struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"` // sessions are accepted
	Pid    int    `json:"pid"`
	VMMPid int    `json:"vmm_pid"`
	// Protocol is the newest version of the control socket that it speaks; 0 is 1.
	Protocol int `json:"protocol,omitempty"`
	// Keeps says that Command.Keep is honoured: supervisors of earlier versions run
	// the program and hang it up with its client.
	Keeps    bool               `json:"keeps"`
	Sessions []wire.KeptSession `json:"sessions,omitempty"` // cleaned; the guest's own word all the same
	// Idle is nil from supervisors of earlier versions, which never stop for that.
	Idle *Idle `json:"idle,omitempty"`
	// Troubles are what went wrong in the guest in this run, the worst first.
	Troubles []record.Trouble `json:"troubles,omitempty"`
	// Memory is nil where the machine's monitor does not know, or not yet.
	Memory *Memory `json:"memory,omitempty"`
	// Watch is nil where there are no mounts, or their changes are not told.
	Watch *Watch `json:"watch,omitempty"`
}

// Watch is how changes that this computer makes in mounts are told to the sandbox.
type Watch struct {
	Folders int  `json:"folders"` // that are watched, since the sandbox has listed them
	More    bool `json:"more"`    // there are more, whose changes are not told
}

// exitReport is how a program ended.
type exitReport struct {
	Status int    `json:"status"`
	Signal string `json:"signal,omitempty"`
}

// failure is a fault on its way to another process.
type failure struct {
	Code fault.Code `json:"code"`
	Hint string     `json:"hint,omitempty"`
	Text string     `json:"text"`
}

// maxFailureText keeps a report of a failure within a frame, and within a pipe.
const maxFailureText = 32 << 10

func failureOf(err error) failure {
	text := err.Error()
	if len(text) > maxFailureText {
		text = text[:maxFailureText] + "..."
	}
	return failure{Code: fault.CodeOf(err), Hint: fault.HintOf(err), Text: text}
}

func (f failure) err() error {
	return &fault.Fault{Code: f.Code, Hint: f.Hint, Err: errors.New(f.Text)}
}

// decodeRequest reads a client's first frame.
func decodeRequest(k kind, payload []byte) (request, error) {
	if k != requested {
		return request{}, fmt.Errorf("the first frame is %q, not a request", byte(k))
	}
	var r request
	if err := json.Unmarshal(payload, &r); err != nil {
		return request{}, fmt.Errorf("decode a request: %w", err)
	}
	switch {
	case r.Version < oldestProtocol || r.Version > protocolVersion:
		return request{}, fault.New(fault.Conflict,
			"The sandbox was started by another version of smolvm: stop it with that one, or restart it.",
			"%s %d to %d of the control protocol, this smolvm %d", otherProtocol, oldestProtocol, protocolVersion, r.Version)
	case r.Op == opNetwork && r.Network == nil:
		return request{}, errors.New("decode a request: network without a change")
	case r.Op == opExec && r.Command == nil:
		return request{}, errors.New("decode a request: exec without a command")
	case r.Op == opPort && (r.Port == nil || !r.Port.valid()):
		return request{}, errors.New("decode a request: port without what to forward")
	case r.Op == opBulk && r.Copy == nil:
		return request{}, errors.New("decode a request: bulk without what to copy")
	case r.Op == opGive && r.Credentials == nil:
		return request{}, errors.New("decode a request: no credentials to give")
	case r.Op == opMounts && (r.Mounts == nil || len(r.Mounts.Add) > 0 == (len(r.Mounts.Remove) > 0)):
		return request{}, errors.New("decode a request: mounts are either added or removed")
	case r.Op == opVariables && r.Variables == nil:
		return request{}, errors.New("decode a request: no variables to change")
	case r.Op == opUsage && r.Usage == nil:
		return request{}, errors.New("decode a request: usage without how often")
	case r.Op == opSnapshot && (r.Snapshot == nil || !filepath.IsAbs(r.Snapshot.Dir)):
		return request{}, errors.New("decode a request: snapshot without a folder")
	case r.Op == opGrow && r.Bytes <= 0:
		return request{}, errors.New("decode a request: grow without a size")
	case r.Op == opLoopback && (r.Loopback < 1 || r.Loopback > 1<<16-1):
		return request{}, errors.New("decode a request: no port")
	case r.Grace < 0:
		return request{}, errors.New("decode a request: a negative grace period")
	}
	return r, nil
}

// decodeCredit reads the payload of a credit frame.
func decodeCredit(payload []byte) (int, error) {
	if len(payload) != 4 {
		return 0, fmt.Errorf("decode a credit: %d bytes", len(payload))
	}
	n := binary.BigEndian.Uint32(payload)
	if n > stdinCredit {
		return 0, fmt.Errorf("decode a credit: %d exceeds %d", n, stdinCredit)
	}
	return int(n), nil
}
