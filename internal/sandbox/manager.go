// Package sandbox makes, starts, stops, lists and deletes sandboxes, each of
// which is a folder with a record and, while it runs, a supervisor process.
//
// Inputs are a Spec (verified files of the store, sizes, preset) and names;
// outputs are records, states and connections to supervisors. All state is in
// the folders: a Manager holds none but the locks of sandboxes it is about to
// start. After a crash a sandbox that was never started to the end is removed by
// Recover; any other is as its supervisor left it and can be started again.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// Options are what a Manager needs.
type Options struct {
	Home   string // absolute
	Book   *record.Book
	Runner *process.Runner // finds mkfs.ext4, and this program again
	Sink   event.Sink
	Now    func() time.Time
	Rand   io.Reader     // keys and instance ids
	Groups cgroup.System // tells whether systemd is asked for a control group for each
}

// Manager manages the sandboxes of one home.
type Manager struct {
	Options

	mu    sync.Mutex
	fresh map[string]*record.Lock // created here and not started yet
	ended map[string]<-chan struct{}
}

// New makes a Manager. It does no work.
func New(o Options) *Manager {
	return &Manager{Options: o, fresh: map[string]*record.Lock{}, ended: map[string]<-chan struct{}{}}
}

// Spec says what sandbox to make. All files of Image are verified and stay in place.
type Spec struct {
	Name, Preset         string
	Directory            string // of this computer, that it belongs to; empty: none
	Agent                record.Agent
	Launch, Arguments    []string
	Ports                []int
	Services             []wire.Service
	Mounts               []record.Mount // outer ones first
	Forwards             []port.Forward
	Image                record.Image
	Arch, VMM            string
	VMMProgram           *record.Program // nil: not recorded
	Accel                vmm.Accel
	CPUs                 int
	MemoryMiB, DiskBytes int64
	Mode                 wire.Mode
	Extra                string // path of drive extra0; empty: none
	ExtraReadOnly        bool
	Network              bool
	Egress               egress.Policy
	Env                  map[string]string // of every session; goes to the seed, so never a credential
	CACerts              []string          // PEM, one certificate each
}

// The values of Status.State.
const (
	Running  = "running"
	Starting = "starting" // or being made, or being removed
	Stopped  = "stopped"
	Broken   = "broken" // its record cannot be used, or its creation was interrupted; it can only be deleted
)

// Status is a sandbox's record with what is known beyond it.
type Status struct {
	record.Record
	State string
}

// Names lists all sandboxes, broken ones included, in order.
func (m *Manager) Names() ([]string, error) { return m.Book.Names() }

// List gives the status of every sandbox, in the order of their names.
func (m *Manager) List() ([]Status, error) {
	names, err := m.Book.Names()
	if err != nil {
		return nil, err
	}
	all := make([]Status, 0, len(names))
	for _, name := range names {
		s, err := m.Get(name)
		if fault.CodeOf(err) == fault.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Turn waits until no other process makes or starts what key names, and keeps the
// others waiting until done is called; see record.Book.
func (m *Manager) Turn(ctx context.Context, key string, waiting func()) (done func() error, err error) {
	return m.Book.Turn(ctx, key, waiting)
}

// Get gives the status of one sandbox. A record that cannot be read makes the
// sandbox Broken, with the reason as LastError.
func (m *Manager) Get(name string) (Status, error) {
	// The lock first: a supervisor that ends writes its record before it lets go.
	held := m.Book.Held(name)
	r, err := m.Book.Read(name)
	switch code := fault.CodeOf(err); {
	case code == fault.NotFound || code == fault.Usage:
		return Status{}, err
	case errors.Is(err, record.ErrIncomplete) && held:
		return Status{Record: record.Record{Name: name}, State: Starting}, nil
	case err != nil:
		return Status{Record: record.Record{Name: name, LastError: err.Error()}, State: Broken}, nil
	}
	return statusOf(r, held), nil
}

// statusOf judges a record. Its process ids are those of a supervisor that said
// "ready", and are cleared when that ends in order.
func statusOf(r record.Record, held bool) Status {
	live := r.VMMPid != 0
	switch {
	case held && live:
		return Status{Record: r, State: Running}
	case held:
		return Status{Record: r, State: Starting}
	case r.State == record.Creating:
		r.LastError = "its first start was interrupted"
		return Status{Record: r, State: Broken}
	case live:
		r.LastError = "its supervisor ended unexpectedly"
		r.Pid, r.VMMPid = 0, 0
	}
	return Status{Record: r, State: Stopped}
}

// Connect gives a connection to the supervisor of a running sandbox. It fails
// with NotFound and with NotRunning.
func (m *Manager) Connect(ctx context.Context, name string) (*supervise.Client, error) {
	s, err := m.Get(name)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(m.Book.Folder(name).RunDir(), supervise.SocketName)
	c, err := supervise.Dial(ctx, socket)
	if fault.CodeOf(err) == fault.NotRunning {
		if s.State == Running && m.Book.Held(name) {
			return nil, lost(fault.NotRunning, s)
		}
		return nil, fault.New(fault.NotRunning, fmt.Sprintf("Start it with smolvm start %s.", name),
			"sandbox %q is not running", name)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to sandbox %q: %w", name, err)
	}
	return c, nil
}

// lost says that a sandbox runs whose supervisor cannot be reached: its sockets are in
// the state folder that it was started in.
func lost(code fault.Code, s Status) error {
	return fault.New(code, fmt.Sprintf("Move the state folder back to where it was, or end its supervisor: kill %d", s.Pid),
		"sandbox %q runs, but its supervisor (process %d) does not answer: was the state folder moved while it ran?", s.Name, s.Pid)
}

// busy says why a sandbox cannot be changed that is held and does not answer.
func (m *Manager) busy(attempt, name string) error {
	if s, err := m.Get(name); err == nil && s.State == Running {
		return fmt.Errorf("%s: %w", attempt, lost(fault.Conflict, s))
	}
	return fault.New(fault.Conflict, "Try again in a moment.",
		"%s sandbox %q: it is just being made, started or removed", attempt, name)
}

// Stop powers a sandbox off, switches it off when grace is over, and returns
// when it can be started again. One that does not run is left as it is.
func (m *Manager) Stop(ctx context.Context, name string, grace time.Duration) error {
	c, err := m.Connect(ctx, name)
	switch {
	case fault.CodeOf(err) == fault.NotRunning && m.Book.Held(name):
		return m.busy("stop", name)
	case fault.CodeOf(err) == fault.NotRunning:
		return nil
	case err != nil:
		return err
	}
	defer c.Close()
	if err := c.Stop(ctx, grace); err != nil && fault.CodeOf(err) != fault.NotRunning {
		return fmt.Errorf("stop sandbox %q: %w", name, err)
	}
	m.reap(ctx, name)
	return nil
}

// Rename gives a sandbox another name, which must be free, whether it runs or not.
func (m *Manager) Rename(ctx context.Context, from, to string) error {
	s, err := m.Get(from)
	if err != nil {
		return err
	}
	if s.State == Broken {
		return fault.New(fault.Conflict, fmt.Sprintf("Delete it: smolvm delete %s", from),
			"rename sandbox %q: it is broken: %s", from, s.LastError)
	}
	lock, err := m.Book.Lock(from)
	if fault.CodeOf(err) == fault.Conflict {
		return m.renameLive(ctx, from, to)
	}
	if err != nil {
		return err
	}
	return errors.Join(supervise.Rename(m.Book, lock, from, to), lock.Release())
}

// renameLive has the sandbox's supervisor do it, which holds the lock.
func (m *Manager) renameLive(ctx context.Context, from, to string) error {
	c, err := m.Connect(ctx, from)
	if fault.CodeOf(err) == fault.NotRunning {
		return m.busy("rename", from)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Rename(ctx, to)
}

// reap waits for the end of a supervisor that this process started itself.
func (m *Manager) reap(ctx context.Context, name string) {
	m.mu.Lock()
	ended := m.ended[name]
	delete(m.ended, name)
	m.mu.Unlock()
	if ended == nil {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// DeleteOptions say how to delete.
type DeleteOptions struct {
	Force bool          // stop it first if it runs; else that is a Conflict
	Grace time.Duration // for the stop; 0: switched off at once
}

// Delete removes a sandbox with its disks, broken or not.
func (m *Manager) Delete(ctx context.Context, name string, o DeleteOptions) error {
	if lock := m.claim(name); lock != nil {
		return lock.Remove()
	}
	if o.Force {
		if err := m.stopForDelete(ctx, name, o.Grace); err != nil {
			return err
		}
	}
	err := m.Book.Remove(name)
	if o.Force && fault.CodeOf(err) == fault.NotFound {
		return nil // it was there: stopped before its first start was over, it is removed by that
	}
	if fault.CodeOf(err) == fault.Conflict {
		return fault.New(fault.Conflict, fmt.Sprintf("Stop it first: smolvm stop %s", name),
			"delete sandbox %q: it is running or being started", name)
	}
	return err
}

// stopForDelete stops a sandbox that runs; a broken one cannot.
func (m *Manager) stopForDelete(ctx context.Context, name string, grace time.Duration) error {
	err := m.Stop(ctx, name, grace)
	if err != nil && fault.CodeOf(err) != fault.NotFound && !m.Book.Held(name) {
		return nil
	}
	return err
}

// claim gives the lock of a sandbox that was created here and not started, if any.
func (m *Manager) claim(name string) *record.Lock {
	m.mu.Lock()
	defer m.mu.Unlock()
	lock := m.fresh[name]
	delete(m.fresh, name)
	return lock
}

// Recover removes what interrupted creations and removals left. Sandboxes that
// are being made, started or removed right now are left alone: they are locked.
func (m *Manager) Recover() error {
	names, err := m.Book.Names()
	if err != nil {
		return err
	}
	errs := []error{m.Book.Sweep(), m.recoverSnapshots()}
	for _, name := range names {
		errs = append(errs, m.Book.RemoveIf(name, m.abandoned))
	}
	return errors.Join(errs...)
}

// abandoned says whether a creation was interrupted, going by the record. Where
// that is missing but a disk is there, the record was lost: it is written first.
func (m *Manager) abandoned(name string) bool {
	r, err := m.Book.Read(name)
	if errors.Is(err, record.ErrIncomplete) {
		_, err := os.Lstat(m.Book.Folder(name).Scratch())
		return errors.Is(err, fs.ErrNotExist)
	}
	return err == nil && r.State == record.Creating
}
