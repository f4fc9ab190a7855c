package supervise

import (
	"context"
	"maps"
	"net"

	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/wire"
)

// Variables change what the agent's sessions that begin from now on find.
type Variables struct {
	Set   map[string]string `json:"set,omitempty"`
	Unset []string          `json:"unset,omitempty"`
}

// change changes the variables and leaves the login files as they are.
func (c *credentials) change(ctx context.Context, link *guestlink.Link, v Variables) error {
	c.mu.Lock()
	now := c.given
	now.Env = maps.Clone(now.Env)
	if now.Env == nil {
		now.Env = map[string]string{}
	}
	maps.Copy(now.Env, v.Set)
	for _, name := range v.Unset {
		delete(now.Env, name)
	}
	if now.Size() > wire.MaxCredentials {
		c.mu.Unlock()
		return errTooMuch(now)
	}
	c.given = now
	c.mu.Unlock()
	_, err := c.ask(ctx, link, wire.Message{Type: wire.GiveCredentials, Credentials: &now}, wire.CredentialsGiven)
	return err
}

func (g *guest) variables(ctx context.Context, v Variables) error {
	if _, err := g.session(ctx); err != nil {
		return err
	}
	s, _ := g.look()
	return g.secrets.change(ctx, s.link, v)
}

// variables passes a client's change on.
func (s *server) variables(ctx context.Context, conn *net.UnixConn, out *frameWriter, v Variables) error {
	if err := s.vault.variables(ctx, v); err != nil {
		return s.refuse(conn, out, err)
	}
	return s.answer(conn, out, nil)
}

// Variables changes the variables of the agent's sessions that begin from now on.
func (c *Client) Variables(ctx context.Context, v Variables) error {
	var nothing any
	return c.ask(ctx, "change the variables of the sandbox's agent", request{Op: opVariables, Variables: &v}, &nothing)
}
