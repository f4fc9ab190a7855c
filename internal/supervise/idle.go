package supervise

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
)

// idleGrace is how long a sandbox that nobody uses may take to stop.
const idleGrace = powerOffTime

// Idle is what a supervisor says of the end of a sandbox that nobody uses.
type Idle struct {
	After time.Duration `json:"after_ns"`        // since the last use; 0: it is never stopped for that
	Stops time.Time     `json:"stops,omitzero"`  // nobody uses it now: when it stops
	Never string        `json:"never,omitempty"` // why it is never stopped; empty with After 0: the setting says so
}

// idle finds out that nothing has used the sandbox for a while. Programs of
// clients, copies and connections to forwarded ports are uses, and so are the
// sessions that the guest keeps. It never looks: one timer runs while there is no
// use, and every use stops it. The time that this computer sleeps does not count.
type idle struct {
	now  func() time.Time
	over chan struct{} // closed when the time has passed; nothing may begin from then on

	mu      sync.Mutex
	after   time.Duration // 0: never
	never   string        // why not, whatever after says
	uses    int
	kept    int // sessions of the guest whose programs run
	timer   *time.Timer
	stops   time.Time // when timer fires
	stopped bool      // over is closed
}

// newIdle has one use, the start itself; its end is begin.
func newIdle(after time.Duration, now func() time.Time) *idle {
	return &idle{now: now, after: after, uses: 1, over: make(chan struct{})}
}

// use begins a use. It fails where the sandbox is about to stop.
func (i *idle) use() (end func(), err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return nil, errIdle(i.after)
	}
	i.uses++
	i.turn()
	return sync.OnceFunc(i.leave), nil
}

func (i *idle) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.uses--
	i.turn()
}

// keeps takes over how many sessions the guest keeps running.
func (i *idle) keeps(sessions int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kept = sessions
	i.turn()
}

// forbid says why the sandbox is never stopped; empty: it may be.
func (i *idle) forbid(why string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.never = why
	i.turn()
}

// turn starts or stops the timer as the uses are now.
func (i *idle) turn() {
	rests := i.uses == 0 && i.kept == 0 && i.after > 0 && i.never == "" && !i.stopped
	switch {
	case !rests && i.timer != nil:
		i.timer.Stop()
		i.timer = nil
	case rests && i.timer == nil:
		i.stops = i.now().Add(i.after)
		var timer *time.Timer
		timer = time.AfterFunc(i.after, func() { i.fire(func() bool { return i.timer == timer }) })
		i.timer = timer
	}
}

// fire ends the time, unless a use came between the timer and this.
func (i *idle) fire(current func() bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if current() {
		i.timer, i.stopped = nil, true
		close(i.over)
	}
}

// look says how it is now. The clock may have been set since the timer began: what
// is left of it counts.
func (i *idle) look() Idle {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.never != "" || i.after == 0 {
		return Idle{Never: i.never}
	}
	state := Idle{After: i.after}
	now := i.now()
	switch {
	case i.stopped:
		state.Stops = now.UTC()
	case i.timer != nil:
		state.Stops = now.Add(i.stops.Sub(now)).UTC()
	}
	return state
}

func errIdle(after time.Duration) error {
	return fault.New(fault.NotRunning, "Start it again with smolvm start.",
		"the sandbox is just being stopped: nobody used it for %v", after)
}

// neverIdle is why a sandbox is not stopped when nobody uses it.
func neverIdle(r record.Record) string {
	switch {
	case r.Keep:
		return "--keep"
	case len(r.Services) > 0:
		return fmt.Sprintf("its service %s", r.Services[0].Name)
	}
	return ""
}

// watchIdle ends the sandbox when nobody has used it for long enough. What the
// agent renewed of the user's logins is saved before that: no command is there
// that could do it.
func (s *supervisor) watchIdle(life context.Context) {
	select {
	case <-s.idle.over:
	case <-life.Done():
		return
	}
	s.log.Info("nobody uses the sandbox: it is stopped", "after", s.idle.after)
	s.saveLogins(life)
	select {
	case s.stops <- stopRequest{grace: idleGrace, idle: true}:
	case <-s.over:
	}
}

// leave ends the sandbox because the supervisor was asked to end, as a computer does
// that is shut down: nobody else could save what the agent renewed of the user's logins.
func (s *supervisor) leave(life context.Context) {
	save, cancel := context.WithTimeout(life, saveTime)
	defer cancel()
	s.saveLogins(save)
	select {
	case s.stops <- stopRequest{grace: termGrace}: // never later than the main loop has it
	case <-s.over:
	}
}

// session does an operation that is a use of the sandbox.
func (s *server) session(ctx context.Context, conn *net.UnixConn, in *frameReader, out *frameWriter, r request) error {
	end, err := s.idle.use()
	if err != nil {
		return s.refuse(conn, out, err)
	}
	defer end()
	ctx, leave, err := s.pulse.use(ctx)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	defer leave()
	switch r.Op {
	case opExec:
		return (&relay{conn: conn, in: in, out: out, guest: s.guest, wanted: s.wanted}).run(ctx, *r.Command)
	case opBulk:
		return s.bulk(ctx, conn, out, *r.Copy)
	case opLoopback:
		return s.loopback(ctx, conn, out, r.Loopback)
	}
	return s.ssh(ctx, conn, out)
}

// keep decides whether the sandbox runs on when nobody uses it.
func (s *supervisor) keep(ctx context.Context, keep bool) error {
	return s.edit(ctx, func(r *record.Record) error {
		r.Keep = keep
		s.idle.forbid(neverIdle(*r))
		return nil
	})
}

// wake says that somebody is about to use the sandbox: its time begins again.
func (s *server) wake(ctx context.Context, conn *net.UnixConn, out *frameWriter, keep *bool) error {
	end, err := s.idle.use()
	if err != nil {
		return s.refuse(conn, out, err)
	}
	defer end()
	if keep != nil {
		if err := s.keep(ctx, *keep); err != nil {
			return s.refuse(conn, out, err)
		}
	}
	return s.answer(conn, out, s.idle.look())
}

// Wake begins the time anew after which a sandbox stops that nobody uses, and with
// keep decides whether it ever does. It fails with NotRunning where the sandbox is
// just being stopped.
func (c *Client) Wake(ctx context.Context, keep *bool) (state Idle, err error) {
	return state, c.ask(ctx, "begin to use the sandbox", request{Op: opWake, Keep: keep}, &state)
}
