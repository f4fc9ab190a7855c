package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

// defaultTimeout bounds a start whose options name no time: an emulated guest on
// a busy host takes half a minute.
const defaultTimeout = 2 * time.Minute

// packTimeout bounds Pack: writing a layer of a few GiB in an emulated guest.
const packTimeout = 30 * time.Minute

// StartOptions say how to start.
type StartOptions struct {
	Timeout time.Duration // until the guest is ready; 0: two minutes
	// Credentials are what the agent gets for this run; they are kept nowhere.
	Credentials *wire.Credentials
	Idle        time.Duration // without a use, after which it stops; 0: never
	Keep        *bool         // whether it runs on unused, from now on; nil leaves it
	Capture     string        // path of a new file for the traffic of this run; empty: none
	LoginHome   string        // folder where login files are replaced by renewed ones before it stops by itself
	// Secrets are kept from the guest, which gets placeholders. Sources say where
	// they came from: the record remembers them, and never the secrets.
	Secrets []escrow.Secret
	Sources []string
}

// Start starts a sandbox and returns when it is ready. When it fails, or ctx
// ends first, no machine is left; a sandbox that has never been started to the
// end is removed, any other is stopped. It fails with Conflict when the sandbox
// runs already or is being started.
func (m *Manager) Start(ctx context.Context, name string, o StartOptions) (record.Record, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	done := event.Span(m.Sink, m.Now, event.Boot, name)
	if _, err := m.spawn(ctx, name, supervise.Order{
		Timeout: o.Timeout, Credentials: o.Credentials, Secrets: o.Secrets, Sources: o.Sources,
		Idle: o.Idle, Keep: o.Keep, LoginHome: o.LoginHome, Capture: o.Capture,
	}); err != nil {
		return record.Record{}, err
	}
	done(0)
	return m.Book.Read(name)
}

// spawn starts a supervisor for a sandbox that does not run.
func (m *Manager) spawn(ctx context.Context, name string, order supervise.Order) (supervise.Spawned, error) {
	lock, err := m.reserve(name)
	if err != nil {
		return supervise.Spawned{}, err
	}
	s, err := supervise.Spawn(ctx, supervise.Launch{
		Runner: m.Runner, Home: m.Home, Name: name, Log: m.Book.Folder(name).Log(),
		Lock: lock, Order: order, Sink: m.Sink, Groups: m.Groups,
	})
	if err != nil {
		return supervise.Spawned{}, errors.Join(err, m.clean(name))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended[name] = s.Ended
	return s, nil
}

// reserve takes the lock of a sandbox that does not run, so that nobody else
// starts or removes it until its supervisor takes over.
func (m *Manager) reserve(name string) (*record.Lock, error) {
	if lock := m.claim(name); lock != nil {
		return lock, nil
	}
	lock, err := m.Book.Lock(name)
	if fault.CodeOf(err) == fault.Conflict {
		return nil, fault.New(fault.Conflict, fmt.Sprintf("See smolvm info %s.", name),
			"start sandbox %q: it is running already, or being started or deleted", name)
	}
	return lock, err
}

// clean removes what a first start left when its supervisor could not do so itself.
func (m *Manager) clean(name string) error { return m.Book.RemoveIf(name, m.abandoned) }

// Pack boots a stopped sandbox once more to write its overlay's upper directory
// as a file system to blank, a file that is large enough, and cuts that file to
// the size of the result, which it returns.
func (m *Manager) Pack(ctx context.Context, name, blank string) (size int64, err error) {
	info, err := os.Stat(blank)
	if err != nil {
		return 0, fault.New(fault.Storage, "", "pack sandbox %q: %w", name, err)
	}
	done := event.Span(m.Sink, m.Now, event.Pack, name)
	s, err := m.spawn(ctx, name, supervise.Order{Timeout: packTimeout, Mode: wire.ModePack, Extra: blank, NoNet: true})
	if err != nil {
		return 0, err
	}
	select {
	case <-s.Ended:
	case <-ctx.Done():
		return 0, fmt.Errorf("pack sandbox %q: %w", name, ctx.Err())
	}
	if s.Bytes <= 0 || s.Bytes > info.Size() {
		return 0, fault.New(fault.Build, "", "pack sandbox %q: the guest says that it wrote %d bytes to a drive of %d",
			name, s.Bytes, info.Size())
	}
	if err := os.Truncate(blank, s.Bytes); err != nil {
		return 0, fault.New(fault.Storage, "", "pack sandbox %q: %w", name, err)
	}
	done(s.Bytes)
	return s.Bytes, nil
}
