// Package supervise is the process that owns one running sandbox: it starts the
// virtual machine, keeps the guest link and one SSH connection open, answers a
// control socket, caps the console log, writes the record, and cleans up.
//
// Inputs are the sandbox's folder and record and an order from the program that
// starts it; outputs are a running sandbox, its control socket, console.log,
// network.log and supervisor.log. The sandbox's lock is held for the supervisor's whole life: it
// is the sandbox's liveness. The machine never outlives the supervisor. After a
// crash the folder with its disks, a stale run folder and an initrd are left;
// the next start replaces the last two. A crash before the first start was
// committed leaves a record in state creating, which Recover of the sandbox room
// removes.
package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/escrow"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/netstack"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// termGrace is the grace period when the supervisor itself is asked to end.
	termGrace = 10 * time.Second
	// saveTime is how much of it login files may take that are to be saved.
	saveTime = 3 * time.Second
	// powerOffTime is how long the VMM may take to end after the guest said that it
	// powers off. Programs are still to be ended then, and disks to be made clean: on
	// a busy host that took more than 10 s, and what was written last was lost.
	powerOffTime = 30 * time.Second
	// tailLines is how many lines of the console an error quotes.
	tailLines = 15
)

// Options are what a supervisor needs besides its sandbox's folder.
type Options struct {
	Home string // absolute
	Name string
	// Driver gives the driver of the VMM that a record names.
	Driver func(record.Record) (vmm.Driver, error)
	// Agent gives the guest agent for an architecture.
	Agent func(arch string) ([]byte, error)
	// Authorities are certificate authorities in PEM, besides the system's, that a
	// host's certificate may come from; may be nil.
	Authorities func() ([]string, error)
	Now         func() time.Time
	Log         io.Writer // the supervisor's own messages, standard error
	// Jumps calls tell after each jump of this computer's clock, until ctx ends.
	Jumps func(ctx context.Context, tell func())
	// Groups is where the machine's control group is made.
	Groups cgroup.System
}

// Run is the whole life of a supervisor that Spawn has started: it takes over
// the files that Spawn passes on. It returns when the sandbox has ended,
// with the reason when that was not in order. Cancelling ctx stops the sandbox.
func Run(ctx context.Context, o Options) error {
	log := slog.New(slog.NewTextHandler(&limited{out: o.Log, left: maxLog}, nil))
	s := &supervisor{
		Options: o, log: log, starter: newStarter(log.Warn),
		stops: make(chan stopRequest), changes: make(chan recordChange), renames: make(chan renameRequest),
		remounts: make(chan remountRequest), networks: make(chan networkRequest), over: make(chan struct{}), released: make(chan struct{}),
		died: make(chan struct{}),
	}
	s.name.Store(&o.Name)
	defer s.starter.close()
	s.starter.report(report{Type: reportHere})
	err := s.run(ctx)
	if err != nil {
		log.Error("sandbox ended", "error", err)
		s.starter.fail(err)
	}
	return err
}

// supervisor is the state of one Run.
type supervisor struct {
	Options
	log     *slog.Logger
	starter *starter
	order   Order

	folder record.Folder
	book   *record.Book
	lock   *record.Lock
	rec    record.Record

	console *console
	// connections is the log of the network's; nil: it has no network.
	connections *console
	capture     *os.File // gets the traffic; nil: nobody wants it
	machine     vmm.Machine
	bounds      bounds
	name        atomic.Pointer[string]      // of the sandbox now, for status
	metered     atomic.Pointer[vmm.Machine] // machine, for status
	vmmPid      atomic.Int64                // of machine, for status
	died        chan struct{}               // closed when the machine has ended and its guest was heard out
	death       error                       // why; set before died is closed
	guest       *guest
	idle        *idle
	troubles    *troubles
	mounts      *mounts
	ports       *ports
	server      *server
	network     atomic.Pointer[netstack.Network] // nil: none
	escrow      *escrow.Proxy                    // of what is kept from the guest; nil: nothing

	stops    chan stopRequest
	changes  chan recordChange
	renames  chan renameRequest
	remounts chan remountRequest
	networks chan networkRequest
	over     chan struct{} // closed when the main loop takes no more stops
	released chan struct{} // closed when the sandbox is released
	running  sync.WaitGroup

	keeping sync.Mutex // held while the machine is kept
}

func (s *supervisor) run(ctx context.Context) (err error) {
	if err := s.take(); err != nil {
		return err
	}
	if s.order, err = s.starter.order(); err != nil {
		return s.finish(false, err)
	}
	life, end := context.WithCancelCause(context.Background())
	committed, err := s.live(ctx, life)
	end(errStopped)
	err = s.finish(committed, err)
	if s.server != nil {
		s.server.wait()
	}
	return err
}

var errStopped = fault.New(fault.NotRunning, "Start it again with smolvm start.", "the sandbox stopped")

// take takes the lock over and reads the record; from here on the sandbox is ours.
func (s *supervisor) take() (err error) {
	if s.book, err = record.Open(s.Home); err != nil {
		return err
	}
	s.folder = s.book.Folder(s.Name)
	if s.lock, err = s.book.Adopt(s.Name, inherited(lockFD, "lock")); err != nil {
		return err
	}
	if s.rec, err = s.book.Read(s.Name); err == nil && (s.rec.Pid != 0 || s.rec.VMMPid != 0) {
		s.rec.Pid, s.rec.VMMPid = 0, 0 // the last supervisor was killed
		err = s.book.Write(s.rec)
	}
	if err != nil {
		return errors.Join(err, s.lock.Release())
	}
	return nil
}

// live brings the sandbox up, keeps it, and returns when it has ended or must
// end. committed says that it had become ready and was wanted.
func (s *supervisor) live(ctx, life context.Context) (committed bool, err error) {
	start, cancel := context.WithTimeoutCause(ctx, s.order.Timeout, errTimeout)
	defer cancel()
	start, abort := context.WithCancelCause(start)
	defer abort(nil)
	s.running.Go(func() {
		select {
		case <-s.starter.gone:
			abort(errStarterGone)
		case <-start.Done():
		}
	})
	if err := s.boot(start, life); err != nil {
		return false, s.explain(start, err)
	}
	ready, err := s.awaitReady(start)
	if err != nil {
		return false, s.explain(start, err)
	}
	if s.order.packs() {
		return false, nil
	}
	if err := s.commit(start, ready); err != nil {
		return false, s.explain(start, err)
	}
	s.running.Go(func() { s.watchIdle(life) })
	s.running.Go(func() { s.keepClock(life) })
	return true, s.serve(ctx, life)
}

// errTimeout is the cause of a start context whose time is over.
var errTimeout = errors.New("time is over")

// boot opens the control socket, makes what the machine needs and starts it.
func (s *supervisor) boot(start, life context.Context) error {
	config, err := sshConfig(s.folder)
	if err != nil {
		return err
	}
	if s.mounts, err = openMounts(s.shared(), s.Now, s.log); err != nil {
		return s.explainMount(err)
	}
	if err := s.hold(life); err != nil {
		return fmt.Errorf("keep credentials from the sandbox: %w", err)
	}
	s.guest = newGuest(config, s.Now, s.log)
	s.guest.pulse, s.guest.name = newPulse(s.lastWords), func() string { return *s.name.Load() }
	s.guest.mounts, s.guest.secrets = s.mounts, newCredentials(s.order.Credentials, s.log)
	s.idle = newIdle(s.order.Idle, s.Now)
	s.troubles = newTroubles(s.Now)
	s.guest.keeps, s.guest.troubles = s.idle.keeps, s.troubles
	s.mounts.news = s.guest.news
	runDir, err := s.folder.MakeRunDir()
	if err != nil {
		return err
	}
	if err := s.openPorts(life); err != nil {
		return err
	}
	s.server = &server{
		guest: s.guest, pulse: s.guest.pulse, vault: s.guest, wanted: s.guest.addresses, ports: s.ports, status: s.status, stops: s.stops, renames: s.renames,
		remounts: s.remounts, networks: s.networks, larger: s.growDisk, kept: s.snapshot, idle: s.idle, keep: s.keep, over: s.over, done: s.released, log: s.log,
	}
	if err := s.server.listen(life, runDir); err != nil {
		return err
	}
	if err := s.sweepSnapshot(); err != nil {
		return err
	}
	spec, err := s.spec(runDir)
	if err != nil {
		return err
	}
	agent, err := s.Agent(s.rec.Arch)
	if err != nil {
		return err
	}
	if err := disk.Initrd(spec.Initrd, agent, s.rec.Image.Modules, s.authority()); err != nil {
		return err
	}
	return s.power(start, life, spec)
}

// power starts the machine and what watches it.
func (s *supervisor) power(start, life context.Context, spec vmm.Spec) error {
	if err := s.launch(start, spec); err != nil {
		return s.bounds.explain(err)
	}
	s.vmmPid.Store(int64(s.machine.Pid()))
	s.metered.Store(&s.machine)
	s.guest.informed, _ = s.machine.(vmm.Informed) // nobody else has the guest yet
	s.rec.Confinement = s.confinement()
	if err := s.connect(life); err != nil {
		return err
	}
	s.log.Info("machine started", "pid", s.machine.Pid(), "confinement", s.rec.Confinement, "limits", s.rec.Limits)
	s.running.Go(func() { s.mounts.serve(life, s.machine) })
	s.running.Go(func() {
		s.guest.run(life, s.machine)
		s.death = s.bounds.explain(s.machine.Wait())
		close(s.died)
	})
	return nil
}

// status is called by the server's goroutines.
func (s *supervisor) status() Status {
	state, _ := s.guest.look()
	idle := s.idle.look()
	return Status{
		Name: *s.name.Load(), Ready: state.client != nil, Pid: os.Getpid(), VMMPid: int(s.vmmPid.Load()), Protocol: protocolVersion, Keeps: true,
		Sessions: state.kept, Idle: &idle, Memory: s.memory(), Troubles: s.troubles.list(), Watch: s.mounts.watch(),
	}
}

// awaitReady takes the guest's messages until it is ready, or has packed and ended.
func (s *supervisor) awaitReady(start context.Context) (*wire.BootReport, error) {
	for {
		select {
		case n := <-s.guest.notices:
			switch {
			case n.err != nil:
				return nil, n.err
			case n.connected:
				return n.Boot, nil
			case n.Type == wire.Packed:
				return nil, s.packed(start, n.Bytes)
			}
			if err := s.heard(n.Message); err != nil {
				return nil, err
			}
		case <-s.died:
			return nil, s.diedEarly()
		case <-s.troubles.loop:
			return nil, s.troubles.err()
		case <-s.stops:
			return nil, fault.New(fault.Interrupted, "", "it was stopped before it was ready")
		case <-start.Done():
			return nil, context.Cause(start)
		}
	}
}

// heard handles the messages of a guest that is coming up.
func (s *supervisor) heard(m wire.Message) error {
	switch m.Type {
	case wire.Working:
		stage := event.Boot
		if s.order.packs() {
			stage = event.Pack
		}
		s.starter.event(event.Event{
			Time: s.Now(), Kind: event.Progress, Stage: stage, Object: s.Name, Text: clipLine(plain(m.Text)),
		})
	case wire.CredentialsGiven:
		if m.Text != "" {
			s.starter.event(event.Event{Time: s.Now(), Kind: event.Notice, Text: clipLine(plain(m.Text))})
		}
	case wire.Failed:
		return fault.New(fault.Boot, "", "the guest could not come up: %s", clipLine(plain(m.Text)))
	case wire.Goodbye:
		s.log.Info("guest ends", "how", clipLine(plain(m.Text)))
	}
	return nil
}

// diedEarly says what ended the machine before it was ready.
func (s *supervisor) diedEarly() error {
	if s.death != nil {
		return s.death
	}
	return fault.New(fault.Boot, "", "the virtual machine switched itself off before it was ready")
}

// packed waits for the guest's orderly end, after which all it wrote is on the
// drive, and reports the size.
func (s *supervisor) packed(start context.Context, bytes int64) error {
	for {
		select {
		case <-s.guest.notices: // goodbye
		case <-s.died:
			if s.death != nil {
				return s.death
			}
			s.starter.report(report{Type: reportDone, Bytes: bytes})
			return nil
		case <-start.Done():
			return context.Cause(start)
		}
	}
}

// commit says that the sandbox is ready and waits until the starter wants it.
func (s *supervisor) commit(start context.Context, boot *wire.BootReport) error {
	s.starter.report(report{Type: reportReady})
	for waiting := true; waiting; {
		select {
		case <-s.starter.committed:
			waiting = false
		case <-s.guest.notices:
		case <-s.died:
			return s.diedEarly()
		case <-start.Done():
			return context.Cause(start)
		}
	}
	s.rec.State, s.rec.LastError, s.rec.StoppedIdle = record.Created, "", false
	s.rec.Troubles = s.troubles.list()
	if s.order.Keep != nil {
		s.rec.Keep = *s.order.Keep
	}
	if s.order.From == "" { // a fork has no credentials yet, and the other's sources from its record
		s.rec.Credentials = s.order.Sources
	}
	s.rec.Started, s.rec.Boot = s.Now().UTC(), boot
	s.rec.Pid, s.rec.VMMPid = os.Getpid(), s.machine.Pid()
	if err := s.book.Write(s.rec); err != nil {
		return err
	}
	s.starter.report(report{Type: reportDone})
	s.starter.close()
	s.idle.forbid(neverIdle(s.rec))
	s.idle.leave() // the start's own use
	debug.SetMemoryLimit(netstack.Memory)
	debug.FreeOSMemory() // the unpacked agent's: from here on little is needed, for days
	return nil
}

// serve keeps a committed sandbox until its machine has ended.
func (s *supervisor) serve(ctx, life context.Context) error {
	var end deadline
	defer end.stop()
	remount := remounting{supervisor: s}
	defer remount.finish(errStopped)
	loop := s.troubles.loop
	var reason error
	for {
		select {
		case <-s.died:
			return cmp.Or(reason, s.death)
		case <-loop:
			loop, reason = nil, s.troubles.err()
			_ = s.machine.Kill() // its end is seen above
		case <-s.troubles.news:
			s.note()
		case r := <-remount.requests():
			remount.begin(r)
		case <-remount.late.over():
			remount.finish(errMountLate())
		case n := <-s.guest.notices:
			remount.heard(n.Message)
			if n.Type == wire.Goodbye {
				s.log.Info("guest ends", "how", clipLine(plain(n.Text)))
			}
			if n.Type == wire.Goodbye && n.Text != goodbyeReboot {
				end.within(s.Now(), powerOffTime)
			}
		case r := <-s.stops:
			s.rec.StoppedIdle = r.idle
			s.powerOff(&end, r.grace)
		case r := <-s.renames:
			r.answer <- s.rename(r.to)
		case c := <-s.changes:
			c.done <- s.change(c.apply)
		case r := <-s.networks:
			snapshot, err := s.changeNetwork(r.change)
			r.answer <- networkAnswer{snapshot, err}
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx) // once
			end.within(s.Now(), termGrace)
			s.running.Go(func() { s.leave(life) })
		case <-end.over():
			s.log.Warn("the guest did not end in time: switched off")
			_ = s.machine.Kill() // its end is seen above
		}
	}
}

// goodbyeReboot is the text of a Goodbye after which the guest comes back.
const goodbyeReboot = "reboot"

// powerOff asks the guest to end within grace.
func (s *supervisor) powerOff(end *deadline, grace time.Duration) {
	end.within(s.Now(), grace)
	if grace == 0 {
		return
	}
	if err := s.guest.powerOff(); err != nil {
		s.log.Warn("stop", "error", err)
	}
}

// lastWords are the last lines of the console.
func (s *supervisor) lastWords() []string { return s.console.tail(tailLines) }

// explain adds to the error of a failed start what the user needs to see.
func (s *supervisor) explain(start context.Context, err error) error {
	switch cause := context.Cause(start); {
	case errors.Is(err, errStarterGone), errors.Is(cause, errStarterGone):
		return errStarterGone
	case errors.Is(cause, errTimeout):
		hint := "Give it more time with --timeout, or look at its console."
		if s.rec.State == record.Creating { // it is removed, with that
			hint = "Give it more time with --timeout."
		}
		err = fault.New(fault.Boot, hint, "it was not ready within %v", s.order.Timeout)
	}
	code := fault.CodeOf(err)
	err = fmt.Errorf("start sandbox %q: %w", s.Name, err)
	if code != fault.Boot || s.console == nil {
		return err
	}
	lines := s.lastWords()
	if len(lines) == 0 {
		return fmt.Errorf("%w; its console stayed empty", err)
	}
	where := ""
	if s.rec.State != record.Creating {
		where = " (" + s.folder.Console() + ")"
	}
	return fmt.Errorf("%w; its console ended with%s:\n  %s", err, where, strings.Join(lines, "\n  "))
}
