package wire

// RequestStart is the SSH channel request that starts a program in a session
// without a shell in between: exact argv, environment, directory and user in
// one message. Its payload is the JSON of a Start. The standard requests (exec,
// shell, env, pty-req, window-change, signal, subsystem sftp) work as well.
// A program that is not there ends with status 127, one that cannot be run with
// 126, each with one line on stderr.
const RequestStart = "start@smolvm.dev"

// Start is the payload of RequestStart, at most MaxMessage bytes.
type Start struct {
	Argv []string          `json:"argv,omitempty"` // empty: the user's login shell
	Env  map[string]string `json:"env,omitempty"`  // over the session's own
	Dir  string            `json:"dir,omitempty"`  // empty: Workspace, or home where there is none
	User string            `json:"user,omitempty"` // agent (default) or root
	// Keep makes it a session that outlives its client; it needs a terminal. With
	// New the program is started in a new session, named Session or by the guest.
	// Without, the client joins the session named Session, and all that is said
	// above of the program is ignored; one that is not there is status 126.
	Keep    bool   `json:"keep,omitempty"`
	New     bool   `json:"new,omitempty"`
	Session string `json:"session,omitempty"`
	// Agent marks the session of the agent itself: it gets the credentials' variables.
	Agent bool `json:"agent,omitempty"`
	// SSHAgent asks for a socket, SSH_AUTH_SOCK, that leads to the client's SSH agent.
	SSHAgent bool `json:"ssh_agent,omitempty"`
}

// Limits of kept sessions.
const (
	MaxSessions    = 64 // in all
	maxSessionName = 32
)

// KeptSession is a program that is kept when nobody watches it, or what is left of one
// that ended while nobody did.
type KeptSession struct {
	Name    string `json:"name"`
	Command string `json:"command"`          // its words, cut
	Title   string `json:"title,omitempty"`  // what the program called its window
	Started int64  `json:"started"`          // as Message.UnixNano
	Used    int64  `json:"used"`             // when a client came or went last
	Clients int    `json:"clients"`          // that watch it now
	Status  *int   `json:"status,omitempty"` // how it ended, as Exec says it; absent while it runs
}

// ValidSessionName tells whether a session may have the name.
func ValidSessionName(name string) bool {
	for i, r := range name {
		plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !plain && (i == 0 || r != '-' && r != '_' && r != '.') {
			return false
		}
	}
	return name != "" && len(name) <= maxSessionName
}

// Size is a terminal's size in character cells.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}
