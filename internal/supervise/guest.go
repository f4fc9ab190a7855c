package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// handshakeTimeout bounds one SSH handshake: 15-50 ms in an idle emulated
	// guest, seconds on a host that is out of breath.
	handshakeTimeout = 60 * time.Second
	// sessionTimeout is how long an exec waits for a guest that boots or reboots.
	sessionTimeout = 2 * time.Minute
	// retryPause is between two attempts to connect to a guest that refuses: it is
	// about to reboot, or out of memory.
	retryPause = time.Second
	// farewellTime is how long the end of a connection waits for the guest's word why: a
	// goodbye comes on a stream of its own, right before or right after it.
	farewellTime = time.Second
)

// guest keeps the link to the guest: it opens a session whenever the guest
// boots, hands its messages on, and holds one SSH connection open on it.
type guest struct {
	config    sshx.Config
	now       func() time.Time
	log       *slog.Logger
	notices   chan notice // what the guest says, to the main loop
	mounts    *mounts     // told to every boot; nil: none
	secrets   *credentials
	addresses *addresses
	pulse     *pulse
	keeps     func(sessions int) // told how many run without a client
	troubles  *troubles
	informed  vmm.Informed  // wants to know of its memory; nil: nobody does
	name      func() string // of the sandbox now, for errors

	mu       sync.Mutex
	state    state
	change   chan struct{} // closed and replaced when state changes
	stopping bool          // power the guest off as soon as it listens
	goodbye  string        // what it said when it last began to end; empty: never
	left     *sshx.Client  // the connection that this ends
	latest   *sshx.Client  // the last one that stood
	renewal  *renewal      // what it has to be told before anybody gets in; nil: nothing

	held chan string // its answer to Hold: why not

	wanted chan struct{} // somebody waits for a lost SSH connection
}

// state is what can be used now. A nil link means that the guest boots.
type state struct {
	link   *guestlink.Link
	client *sshx.Client
	err    error // why the last attempt to connect failed
	kept   []wire.KeptSession
}

// notice is a message of the guest, or the end of an attempt to connect.
type notice struct {
	wire.Message
	connected bool  // the SSH connection stands
	err       error // it could not be made
}

func newGuest(config sshx.Config, now func() time.Time, log *slog.Logger) *guest {
	return &guest{
		config: config, now: now, log: log, notices: make(chan notice), secrets: newCredentials(nil, log), addresses: newAddresses(now),
		held: make(chan string, 1), keeps: func(int) {}, troubles: newTroubles(now), name: func() string { return "" },
		change: make(chan struct{}), wanted: make(chan struct{}, 1),
	}
}

// run serves one boot of the guest after another until the machine or ctx ends.
// All that a guest said before its machine ended has then been told.
func (g *guest) run(ctx context.Context, machine vmm.Machine) {
	for ctx.Err() == nil {
		conn, err := machine.Link(ctx)
		if err != nil {
			return
		}
		link, err := guestlink.Open(ctx, conn)
		if err != nil {
			g.log.Warn("open the guest link", "error", err)
			continue
		}
		g.boot(ctx, link)
	}
}

// boot serves one session of the link to its end.
func (g *guest) boot(ctx context.Context, link *guestlink.Link) {
	ctx, cancel := context.WithCancel(ctx)
	var holding sync.WaitGroup
	ready := false
	defer func() {
		cancel()
		_ = link.Close()
		holding.Wait()
		g.set(func(s *state) { *s = state{} })
		g.keeps(0)
		g.log.Info("guest link ended", "reason", link.Err())
	}()
	g.set(func(s *state) { s.link = link })
	if g.resumes() {
		g.troubles.resumed()
	} else {
		g.troubles.opened()
	}
	stop := context.AfterFunc(ctx, func() { _ = link.Close() }) // ends Messages
	defer stop()
	holding.Go(func() { g.pulse.watch(ctx, link) })
	g.greet(link)
	for m := range link.Messages() {
		if m.Type == wire.Ready && !ready {
			ready = true
			holding.Go(func() {
				if g.renewed(ctx) == nil { // nobody gets in before
					g.hold(ctx, link, m)
				}
			})
			continue
		}
		if m.Type == wire.Sessions {
			kept := keptSessions(m.Sessions)
			g.set(func(s *state) { s.kept = kept })
			g.keeps(runningSessions(kept))
			continue
		}
		if m.Type == wire.DiskFull {
			g.troubles.disk(m.Text)
			continue
		}
		if m.Type == wire.Memory {
			g.inform(m.Memory)
			continue
		}
		if g.heardOfSnapshot(ctx, m) {
			continue
		}
		if g.addresses.heard(link, m) || g.secrets.heard(m) && ready {
			continue
		}
		if m.Type == wire.Goodbye {
			g.leaves(m.Text)
		}
		g.tell(ctx, notice{Message: m})
	}
}

// give and logins speak to a guest that is ready.
func (g *guest) give(ctx context.Context, c wire.Credentials) (string, error) {
	if _, err := g.session(ctx); err != nil {
		return "", err
	}
	s, _ := g.look()
	return g.secrets.give(ctx, s.link, c)
}

func (g *guest) logins(ctx context.Context) ([]Login, error) {
	if _, err := g.session(ctx); err != nil {
		return nil, err
	}
	s, _ := g.look()
	return g.secrets.logins(ctx, s.link)
}

// hold sets the clock, then keeps the SSH connection for the rest of the boot.
func (g *guest) hold(ctx context.Context, link *guestlink.Link, ready wire.Message) {
	g.tellTime()
	g.mu.Lock()
	stopping := g.stopping
	g.mu.Unlock()
	if stopping {
		_ = link.Send(wire.Message{Type: wire.PowerOff}) // the end of grace is the other way
	}
	for ctx.Err() == nil {
		client, err := g.connect(ctx, link)
		g.set(func(s *state) {
			s.client, s.err = client, err
			if err == nil {
				g.latest = client
			}
		})
		g.tell(ctx, notice{Message: ready, connected: err == nil, err: err})
		if err != nil {
			g.log.Warn("connect to the guest's SSH server", "error", err)
			pause(ctx, retryPause)
		} else {
			g.keep(ctx, client)
		}
		select { // a guest that drops connections is asked again only for somebody
		case <-g.wanted:
		case <-ctx.Done():
		}
	}
}

// keep holds a connection until it or the boot ends, or the guest hangs: what waits
// for it on the connection waits no longer then.
func (g *guest) keep(ctx context.Context, client *sshx.Client) {
	select {
	case <-client.Done():
		g.log.Warn("SSH connection lost", "error", client.Err())
	case <-g.pulse.hangs():
		g.log.Warn("the guest hangs: its SSH connection is given up")
	case <-ctx.Done():
	}
	g.set(func(s *state) { s.client = nil })
	_ = client.Close()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (g *guest) connect(ctx context.Context, link *guestlink.Link) (*sshx.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := link.Dial(ctx, wire.StreamSSH)
	if err != nil {
		return nil, err
	}
	return sshx.Connect(ctx, conn, g.config)
}

// set changes the state and wakes those who wait for a change.
func (g *guest) set(f func(*state)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.state)
	close(g.change)
	g.change = make(chan struct{})
}

// tell hands a notice to the main loop, which takes them until ctx ends.
func (g *guest) tell(ctx context.Context, n notice) {
	select {
	case g.notices <- n:
	case <-ctx.Done():
	}
}

// look gives the state and the channel that its next change closes.
func (g *guest) look() (state, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.change
}

// session gives the SSH connection. It waits while the guest boots and while a
// lost connection is made again, for sessionTimeout at most. Only a wrong host
// key is not waited out.
func (g *guest) session(ctx context.Context) (*sshx.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sessionTimeout, errNotReady())
	defer cancel()
	for {
		s, change := g.look()
		switch {
		case s.client != nil && s.client.Err() == nil: // one that has ended is about to be made again
			return s.client, nil
		case s.err != nil && fault.CodeOf(s.err) == fault.Trust:
			return nil, s.err
		}
		select {
		case g.wanted <- struct{}{}:
		default: // somebody asked already
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// stream opens a bare stream to a guest that is ready.
func (g *guest) stream(ctx context.Context, kind wire.StreamKind) (net.Conn, error) {
	for {
		if _, err := g.session(ctx); err != nil {
			return nil, err
		}
		if s, _ := g.look(); s.link != nil {
			return s.link.Dial(ctx, kind)
		}
	}
}

func errNotReady() error {
	return fault.New(fault.Boot, "See what it prints with smolvm logs; restart it with smolvm stop and start.",
		"the sandbox did not become ready within %v; it may be rebooting", sessionTimeout)
}

// leaves notes that the guest begins to end, which ends its programs.
func (g *guest) leaves(goodbye string) {
	g.set(func(*state) { g.goodbye, g.left = goodbye, g.latest })
}

// farewell is why the guest ended the programs of a connection; nil where it did not. For
// one that was lost it waits until the guest has said why, another stands, or the boot
// has ended, and no longer than wait.
func (g *guest) farewell(of *sshx.Client, wait time.Duration) error {
	timeout := time.After(wait)
	for {
		s, change := g.look()
		if err := g.saidWhy(of); err != nil || wait == 0 || s.link == nil || s.client != nil && s.client != of {
			return err
		}
		select {
		case <-change:
		case <-timeout:
			return nil
		}
	}
}

// saidWhy is farewell by what the guest has said so far.
func (g *guest) saidWhy(of *sshx.Client) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := g.goodbye != "" && g.left == of
	switch {
	case left && g.goodbye == goodbyeReboot && !g.stopping:
		return fault.New(fault.NotRunning, "Its files are there, its programs have ended.", "sandbox %q was restarted", g.name())
	case left || g.stopping:
		return fault.New(fault.NotRunning, "Start it again with smolvm start "+g.name()+".", "sandbox %q was stopped", g.name())
	}
	return nil
}

// powerOff asks the guest to end; one that boots is asked when it listens.
func (g *guest) powerOff() error {
	g.mu.Lock()
	g.stopping = true
	link := g.state.link
	g.mu.Unlock()
	if link == nil {
		return errors.New("the guest does not listen yet")
	}
	if err := link.Send(wire.Message{Type: wire.PowerOff}); err != nil {
		return fmt.Errorf("power the guest off: %w", err)
	}
	return nil
}
