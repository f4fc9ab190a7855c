package supervise

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/guestlink"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sparse"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// holdTime is how long a guest may take to keep everybody out.
	holdTime = 30 * time.Second
	// resumeTime is how long a machine may take to go on, whatever became of its
	// snapshot.
	resumeTime = 30 * time.Second
)

// Snapshot says how to keep a machine.
type Snapshot struct {
	// Dir is an empty folder. What is in there afterwards are SnapshotMachine, the
	// driver's, and SnapshotScratch, a copy of the disk of the same moment.
	Dir string `json:"dir"`
	// Secrets says that credentials that the guest was given may be in there.
	Secrets bool `json:"secrets,omitempty"`
}

// The names in a snapshot's folder.
const (
	SnapshotMachine = "machine"
	SnapshotScratch = "scratch.ext4"
)

// snapshot keeps the machine, which goes on afterwards, with a new guest link:
// whatever went through the old one has ended. What cannot be kept is refused before
// anything is touched.
func (s *supervisor) snapshot(ctx context.Context, o Snapshot) error {
	if _, err := s.guest.session(ctx); err != nil { // by then there is a machine
		return err
	}
	machine, ok := s.machine.(vmm.Snapshotter)
	if !ok {
		return fault.New(fault.Conflict, "", "a machine of %s cannot be kept while it runs", s.rec.VMM)
	}
	if given := s.given(); len(given) > 0 && !o.Secrets {
		return fault.New(fault.Conflict, "Allow it with --with-secrets, or start the sandbox again with --no-credentials and without -e.",
			"its memory holds credentials of yours, which a copy would have too: %s", strings.Join(given, ", "))
	}
	if !s.keeping.TryLock() {
		return fault.New(fault.Conflict, "Try again in a moment.", "it is being kept already")
	}
	defer s.keeping.Unlock()
	if err := s.guest.keepOut(ctx); err != nil {
		return err
	}
	err := disk.Full(s.keepMachine(ctx, machine, o.Dir))
	after, cancel := s.whileAlive(context.WithoutCancel(ctx))
	defer cancel()
	return errors.Join(err, s.guest.letIn(after))
}

// whileAlive is ctx for as long as the machine runs and its guest may take to come back.
func (s *supervisor) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	s.running.Go(func() {
		select {
		case <-s.died:
			end(errStopped)
		case <-ctx.Done():
		}
	})
	timed, cancel := context.WithTimeoutCause(ctx, sessionTimeout, errNotReady())
	return timed, func() { cancel(); end(nil) }
}

// given are the names of credentials that the guest really has: of what is kept from it
// there are placeholders only.
func (s *supervisor) given() []string {
	return slices.DeleteFunc(s.guest.secrets.names(), func(name string) bool {
		for _, secret := range s.order.Secrets {
			if secret.Name == name {
				return true
			}
		}
		return false
	})
}

// keepMachine writes the snapshot while the machine is paused.
func (s *supervisor) keepMachine(ctx context.Context, machine vmm.Snapshotter, dir string) (err error) {
	folder := filepath.Join(dir, SnapshotMachine)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return fault.New(fault.Storage, "", "make the folder of a snapshot: %w", err)
	}
	if err := machine.Pause(ctx); err != nil {
		return err
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTime)
		defer cancel()
		err = errors.Join(err, machine.Resume(after))
	}()
	if err := machine.Snapshot(ctx, folder); err != nil {
		return err
	}
	if err := sparse.CopyFile(ctx, s.folder.Scratch(), filepath.Join(dir, SnapshotScratch)); err != nil {
		return fault.New(fault.Storage, "", "copy its disk: %w", err)
	}
	return nil
}

// launch starts the machine: it boots, or runs on from a snapshot as a sandbox of its
// own.
func (s *supervisor) launch(start context.Context, spec vmm.Spec) error {
	driver, err := s.Driver(s.rec)
	if err != nil {
		return err
	}
	spec.Group = s.enclose(driver, spec)
	if s.order.From == "" {
		s.machine, err = driver.Start(start, spec)
		return err
	}
	restorer, ok := driver.(vmm.Restorer)
	if !ok {
		return fault.New(fault.Conflict, "", "no machine of %s can be restored", s.rec.VMM)
	}
	identity, err := s.identity()
	if err != nil {
		return err
	}
	s.guest.renewal = &renewal{identity: identity} // nobody else has the guest yet
	s.machine, err = restorer.Restore(start, spec, filepath.Join(s.order.From, SnapshotMachine))
	return err
}

// identity is what the sandbox has of its own, and the restored guest of another.
func (s *supervisor) identity() (*wire.Identity, error) {
	host, err := os.ReadFile(s.folder.HostKey())
	if err != nil {
		return nil, fault.New(fault.Storage, "", "read its SSH keys: %w", err)
	}
	client, err := os.ReadFile(s.folder.ClientKeyPublic())
	if err != nil {
		return nil, fault.New(fault.Storage, "", "read its SSH keys: %w", err)
	}
	entropy := make([]byte, 2*wire.LeastEntropy)
	if _, err := rand.Read(entropy); err != nil {
		return nil, fmt.Errorf("draw random numbers for the guest: %w", err)
	}
	return &wire.Identity{
		InstanceID: s.rec.ID, Hostname: record.Hostname(s.rec.Name), HostKey: string(host),
		AuthorizedKeys: []string{strings.TrimSpace(string(client))}, Entropy: entropy,
	}, nil
}

// sweepSnapshot removes a snapshot that a fork was killed over: it holds memory.
func (s *supervisor) sweepSnapshot() error {
	if s.order.From == s.folder.Snapshot() {
		return nil
	}
	if err := os.RemoveAll(s.folder.Snapshot()); err != nil {
		return fault.New(fault.Storage, "", "remove a snapshot of an earlier run: %w", err)
	}
	return nil
}

// renewal is what a guest that was kept, or restored, is told before anybody gets in.
type renewal struct {
	identity *wire.Identity  // nil: it stays who it is
	told     *guestlink.Link // on which it was said: once on each
	resumed  bool            // the session of the link that goes on without a boot has begun
}

// resumes tells whether the session of the link that has just begun is the first of a
// guest that was kept or restored, which did not boot for it.
func (g *guest) resumes() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.renewal == nil || g.renewal.resumed {
		return false
	}
	g.renewal.resumed = true
	return true
}

// keepOut has the guest let nobody in until letIn.
func (g *guest) keepOut(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, holdTime, fault.New(fault.Boot, "Try again, or restart it with smolvm stop and start.", "the guest does not answer"))
	defer cancel()
	s, _ := g.look()
	if s.link == nil {
		return errNotReady()
	}
	select {
	case <-g.held: // of an earlier time, too late
	default:
	}
	g.mu.Lock()
	g.renewal = &renewal{}
	g.mu.Unlock()
	err := s.link.Send(wire.Message{Type: wire.Hold})
	if err == nil {
		select {
		case why := <-g.held:
			if why != "" {
				err = errors.New(why)
			}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("have the guest let nobody in: %w", err), g.sendRenewal(s.link))
	}
	return nil
}

// letIn has the guest let people in again, and waits until it does: on this session of
// the link, or, if that ended with a snapshot, on the next.
func (g *guest) letIn(ctx context.Context) error {
	if s, _ := g.look(); s.link != nil {
		_ = g.sendRenewal(s.link) // one that is ending: the next session begins with it
	}
	if err := g.renewed(ctx); err != nil {
		return fmt.Errorf("have the guest let people in again: %w", err)
	}
	return nil
}

// renewed waits until the guest lets people in.
func (g *guest) renewed(ctx context.Context) error {
	for {
		g.mu.Lock()
		done, change := g.renewal == nil, g.change
		g.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// greet says what a guest is told first that has just opened its link.
func (g *guest) greet(link *guestlink.Link) {
	g.mu.Lock()
	renews := g.renewal != nil
	g.mu.Unlock()
	if !renews {
		g.mounts.tell(link)
		g.secrets.tell(link)
		return
	}
	if err := g.sendRenewal(link); err != nil {
		g.log.Warn("renew the guest", "error", err)
	}
}

// sendRenewal sends what is to be told, if anything is.
func (g *guest) sendRenewal(link *guestlink.Link) error {
	message := g.mounts.renewal()
	g.mu.Lock()
	r := g.renewal
	again := r == nil || r.told == link
	if !again {
		r.told = link
	}
	g.mu.Unlock()
	if again {
		return nil
	}
	message.Identity, message.UnixNano = r.identity, g.now().UnixNano()
	return link.Send(message)
}

// heardOfSnapshot takes the guest's answers.
func (g *guest) heardOfSnapshot(ctx context.Context, m wire.Message) bool {
	switch m.Type {
	case wire.Held:
		select {
		case g.held <- clipLine(plain(m.Text)):
		default:
		}
	case wire.Renewed:
		if m.Text != "" {
			g.log.Warn("the guest cannot go on", "why", clipLine(plain(m.Text)))
			g.tell(ctx, notice{Message: wire.Message{Type: wire.Failed, Text: m.Text}})
			return true
		}
		g.mu.Lock()
		g.renewal = nil
		g.mu.Unlock()
		g.set(func(*state) {})
	default:
		return false
	}
	return true
}

// snapshot keeps the sandbox for a client, who waits.
func (s *server) snapshot(ctx context.Context, conn *net.UnixConn, out *frameWriter, o Snapshot) error {
	end, err := s.idle.use()
	if err != nil {
		return s.refuse(conn, out, err)
	}
	defer end()
	if err := s.kept(ctx, o); err != nil {
		return s.refuse(conn, out, err)
	}
	return s.answer(conn, out, nil)
}

// Snapshot keeps the running sandbox in a folder.
func (c *Client) Snapshot(ctx context.Context, o Snapshot) error {
	var nothing any
	return c.ask(ctx, "keep the sandbox", request{Op: opSnapshot, Snapshot: &o}, &nothing)
}
