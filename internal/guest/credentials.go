//go:build linux

package guest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/guest/credential"
	"github.com/smolvm/smolvm/internal/guest/setup"
	"github.com/smolvm/smolvm/internal/wire"
)

// credentialTime bounds the wait for the host's first word on credentials.
const credentialTime = 30 * time.Second

const (
	credentialFolder = "/run/smolvm/credentials"
	gitConfig        = "/etc/gitconfig"
)

// credentials are what the host gave of its user's.
type credentials struct {
	first chan struct{} // closed when the host has said what there is
	once  sync.Once

	mu    sync.Mutex
	store credential.Store
}

func newCredentials() *credentials {
	return &credentials{
		first: make(chan struct{}), store: credential.Store{Dir: credentialFolder, Mount: credential.MountTmpfs},
	}
}

// credentialMessage handles a message about credentials, once there is a root.
func (a *agent) credentialMessage(ctx context.Context, m wire.Message) {
	select {
	case <-a.mounts.rooted:
	case <-ctx.Done():
		return
	}
	c := a.credentials
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Type {
	case wire.AskLogins:
		a.uplink.say(wire.Message{Type: wire.Logins, Credentials: &wire.Credentials{Logins: c.store.Logins()}})
	case wire.GiveCredentials:
		answer := wire.Message{Type: wire.CredentialsGiven, Text: a.keep(m.Credentials)}
		if answer.Text != "" {
			a.console.printf("credentials: %s", answer.Text) // names, never values
		}
		c.once.Do(func() { close(c.first) })
		a.uplink.say(answer)
	}
}

// keep takes what is given, and says what of it cannot be kept.
func (a *agent) keep(given *wire.Credentials) string {
	if given == nil || a.options.Mode != wire.ModeRun {
		return ""
	}
	store := &a.credentials.store
	var err error
	if store.Owner, err = setup.FindAccount("/", wire.AgentUser); err != nil {
		return err.Error()
	}
	notes, err := store.Set(*given)
	if err != nil {
		notes = append(notes, err.Error())
	}
	if err := credential.WriteGit(gitConfig, given.Git); err != nil {
		notes = append(notes, err.Error())
	}
	return strings.Join(notes, "; ")
}

// awaitCredentials waits until the host has said what there is, so that services
// start with it.
func (a *agent) awaitCredentials(ctx context.Context) error {
	if a.options.Mode != wire.ModeRun {
		return nil
	}
	timer := time.NewTimer(credentialTime)
	defer timer.Stop()
	select {
	case <-a.credentials.first:
		return nil
	case <-timer.C:
		return fmt.Errorf("the host did not say which credentials there are within %v", credentialTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// agentEnv are the variables that only the agent and its services get.
func (a *agent) agentEnv() map[string]string {
	a.credentials.mu.Lock()
	defer a.credentials.mu.Unlock()
	return a.credentials.store.Env()
}
