package wire

import "encoding/json"

// The messages about credentials. The first Credentials of a boot comes before
// the guest is ready, so that services find theirs; it may be empty.
const (
	GiveCredentials  MessageType = "credentials"      // host to guest: Credentials replaces what was given
	CredentialsGiven MessageType = "credentials-kept" // guest to host: it does; else Text says what does not, and why
	AskLogins        MessageType = "ask-logins"       // host to guest: how are the login files now?
	Logins           MessageType = "logins"           // guest to host: Credentials.Logins
)

// Credentials are what of the host the agent in the sandbox may use. They live in
// the supervisor's memory and in a tmpfs of the guest, and nowhere else.
type Credentials struct {
	// Env is set in the agent's sessions and in services, and in no others.
	Env    map[string]string `json:"env,omitempty"`
	Logins []LoginFile       `json:"logins,omitempty"`
	// Withdrawn are login files that were given at an earlier boot, maybe.
	Withdrawn []string     `json:"withdrawn,omitempty"`
	Git       *GitIdentity `json:"git,omitempty"`
}

// LoginFile is a file below the home folder that holds a login.
type LoginFile struct {
	Path    string `json:"path"` // relative
	Content []byte `json:"content"`
}

// GitIdentity is who commits.
type GitIdentity struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

// MaxCredentials bounds Size, so that it fits into a message.
const MaxCredentials = MaxMessage - 1<<10

// Size is the number of bytes that credentials take in a message.
func (c Credentials) Size() int {
	raw, err := json.Marshal(c)
	if err != nil {
		return 0 // maps of text and bytes always are JSON
	}
	return len(raw)
}
