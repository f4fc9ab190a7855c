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
}

// Size is a terminal's size in character cells.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}
