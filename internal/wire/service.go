package wire

// Service is a program that the guest agent keeps running: it starts after the
// guest is ready, belongs to no session, and gets SIGTERM before the machine ends.
type Service struct {
	Name string   `json:"name"` // a file name, unique in its sandbox
	Run  []string `json:"run"`
	User string   `json:"user,omitempty"` // agent (default) or root
	// Port is the TCP port it listens on, 0 if none. Where there is one, the guest
	// says in the service's log when it answers: to a GET of Health with a status
	// below 400, or without Health to a connection.
	Port    int     `json:"port,omitempty"`
	Health  string  `json:"health,omitempty"`
	Restart Restart `json:"restart,omitempty"`
}

// Restart says when a service that ended by itself is started again.
type Restart string

// The values of Restart.
const (
	RestartAlways    Restart = "always" // the default
	RestartOnFailure Restart = "on-failure"
	RestartNever     Restart = "never"
)

// ServiceLog is the folder of the services' logs in the guest: for each one
// NAME.log and, once that has grown to its limit, NAME.log.1 with what was before.
const ServiceLog = "/var/log/smolvm"

// ServiceGate is a folder in the guest with a file for each service that has a port.
// The file is locked exclusively (flock) while the service does not answer yet.
const ServiceGate = "/run/smolvm/starting"
