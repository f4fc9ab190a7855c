package supervise

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/login"
	"github.com/smolvm/smolvm/internal/wire"
)

// credentialTimeout is how long the guest may take to take credentials, or to
// say how login files are.
const credentialTimeout = 30 * time.Second

// credentials are what the user's agent may use, in this process's memory only:
// they are given to every boot of the guest, and never logged.
type credentials struct {
	log *slog.Logger

	asking  sync.Mutex // one question to the guest at a time
	answers chan wire.Message

	mu    sync.Mutex
	given wire.Credentials
}

func newCredentials(given *wire.Credentials, log *slog.Logger) *credentials {
	c := &credentials{log: log, answers: make(chan wire.Message, 1)}
	if given != nil {
		c.given = *given
	}
	return c
}

// tell gives them to a guest that has just opened its link.
func (c *credentials) tell(link *guestlink.Link) {
	c.mu.Lock()
	given := c.given
	c.mu.Unlock()
	if err := link.Send(wire.Message{Type: wire.GiveCredentials, Credentials: &given}); err != nil {
		c.log.Warn("give the guest its credentials", "error", err)
	}
}

// heard takes an answer of the guest; one that nobody waits for is dropped.
func (c *credentials) heard(m wire.Message) bool {
	if m.Type != wire.CredentialsGiven && m.Type != wire.Logins {
		return false
	}
	select {
	case c.answers <- m:
	default:
	}
	return true
}

// ask sends a message and waits for the guest's answer.
func (c *credentials) ask(ctx context.Context, link *guestlink.Link, m wire.Message, answer wire.MessageType) (wire.Message, error) {
	if link == nil {
		return wire.Message{}, errNotReady()
	}
	c.asking.Lock()
	defer c.asking.Unlock()
	select {
	case <-c.answers: // of an earlier question, too late
	default:
	}
	ctx, cancel := context.WithTimeoutCause(ctx, credentialTimeout, errors.New("the guest does not answer"))
	defer cancel()
	if err := link.Send(m); err != nil {
		return wire.Message{}, err
	}
	for {
		select {
		case got := <-c.answers:
			if got.Type == answer {
				return got, nil
			}
		case <-ctx.Done():
			return wire.Message{}, fmt.Errorf("ask the guest about credentials: %w", context.Cause(ctx))
		}
	}
}

// give adds to the variables and replaces the login files.
func (c *credentials) give(ctx context.Context, link *guestlink.Link, more wire.Credentials) (note string, err error) {
	c.mu.Lock()
	env := maps.Clone(c.given.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, more.Env)
	more.Env = env
	if more.Size() > wire.MaxCredentials {
		c.mu.Unlock()
		return "", errTooMuch(more)
	}
	c.given = more
	c.mu.Unlock()
	m, err := c.ask(ctx, link, wire.Message{Type: wire.GiveCredentials, Credentials: &more}, wire.CredentialsGiven)
	return clipLine(plain(m.Text)), err
}

func errTooMuch(c wire.Credentials) error {
	return fault.New(fault.Usage, "Give fewer variables or login files.",
		"give credentials: they have %d bytes, at most %d are possible", c.Size(), wire.MaxCredentials)
}

// Login is a login file as the guest has it now.
type Login struct {
	wire.LoginFile
	Given string `json:"given"` // SHA-256 of what it was given
}

// logins asks how the login files that were given are now.
func (c *credentials) logins(ctx context.Context, link *guestlink.Link) ([]Login, error) {
	m, err := c.ask(ctx, link, wire.Message{Type: wire.AskLogins}, wire.Logins)
	if err != nil || m.Credentials == nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Login
	for _, given := range c.given.Logins {
		for _, l := range m.Credentials.Logins {
			if l.Path == given.Path { // of what else a hostile guest names nothing is known
				sum := sha256.Sum256(given.Content)
				all = append(all, Login{l, hex.EncodeToString(sum[:])})
				break
			}
		}
	}
	return all, nil
}

// saveLogins replaces login files of the user by what the agent made of those that
// it was given, where he said so. What goes wrong is in the log and stops nothing.
func (s *supervisor) saveLogins(ctx context.Context) {
	if s.order.LoginHome == "" || !s.guest.secrets.hasLogins() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, credentialTimeout)
	defer cancel()
	all, err := s.guest.logins(ctx)
	if err != nil {
		s.log.Warn("login files are not copied back", "error", err)
	}
	for _, l := range all {
		renewed, err := login.Renew(s.order.LoginHome, l.Path, l.Content, l.Given)
		if renewed || err != nil {
			s.log.Info("login file copied back", "file", l.Path, "error", err)
		}
	}
}

// names are those of the variables and login files that the guest was given.
func (c *credentials) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Sorted(maps.Keys(c.given.Env))
	for _, l := range c.given.Logins {
		all = append(all, "~/"+l.Path)
	}
	return all
}

func (c *credentials) hasLogins() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.given.Logins) > 0
}

// give passes credentials of a client on.
func (s *server) give(ctx context.Context, conn *net.UnixConn, out *frameWriter, c wire.Credentials) error {
	note, err := s.vault.give(ctx, c)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	return s.answer(conn, out, note)
}

// logins tells a client how the login files are.
func (s *server) logins(ctx context.Context, conn *net.UnixConn, out *frameWriter) error {
	all, err := s.vault.logins(ctx)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	return s.answer(conn, out, all)
}

func (s *server) answer(conn *net.UnixConn, out *frameWriter, value any) error {
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.sendJSON(accepted, value)
}

// Give gives a running sandbox credentials: variables besides those that it has,
// login files instead of those. The note says which it did not take, and why.
func (c *Client) Give(ctx context.Context, given wire.Credentials) (note string, err error) {
	if given.Size() > wire.MaxCredentials {
		return "", errTooMuch(given)
	}
	return note, c.ask(ctx, "give the sandbox credentials", request{Op: opGive, Credentials: &given}, &note)
}

// Logins tells how the login files that were given to the sandbox are now.
func (c *Client) Logins(ctx context.Context) (all []Login, err error) {
	return all, c.ask(ctx, "look at the sandbox's login files", request{Op: opLogins}, &all)
}

// ask does one operation whose answer is JSON.
func (c *Client) ask(ctx context.Context, attempt string, r request, into any) error {
	call, err := c.begin(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	defer call.end()
	if err := json.Unmarshal(call.answer, into); err != nil {
		return fmt.Errorf("%s: decode the answer: %w", attempt, err)
	}
	return nil
}
