package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
)

// abortTimeout is how long an interrupted start waits for the supervisor to
// clean up. It cleans up without us as well.
const abortTimeout = 15 * time.Second

// Launch says which supervisor to start.
type Launch struct {
	Runner *process.Runner
	Home   string // absolute
	Name   string
	Log    string       // path of the supervisor's own messages
	Lock   *record.Lock // the supervisor's from the moment it runs; given up in any case
	Order  Order
	Sink   event.Sink
	Groups cgroup.System // tells whether systemd is asked for a scope
}

// Spawned is a supervisor that did what it was ordered to.
type Spawned struct {
	Bytes int64           // size of what was packed
	Ended <-chan struct{} // closed when its process has ended
}

// Spawn starts a supervisor in a session of its own and waits until the sandbox
// is ready, or packed. On an error, and when ctx ends first, the supervisor has
// ended or is ending, and nothing is left of the start.
func Spawn(ctx context.Context, l Launch) (Spawned, error) {
	s, err := l.start(ctx)
	if err != nil {
		err = errors.Join(err, l.Lock.Release())
		return Spawned{}, fmt.Errorf("start the supervisor of sandbox %q: %w", l.Name, err)
	}
	defer s.close()
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	bytes, err := s.follow(l)
	if err != nil {
		s.abort()
		s.settle()
		if ctx.Err() != nil {
			err = fmt.Errorf("start sandbox %q: %w", l.Name, context.Cause(ctx))
		}
		return Spawned{}, err
	}
	return Spawned{Bytes: bytes, Ended: s.ended}, nil
}

// spawn is the starter's end of a start.
type spawn struct {
	reports *os.File
	orders  *os.File
	lines   *bufio.Reader
	ended   chan struct{}
	kill    func()
}

// start runs the supervisor, in a control group of its own where it can be given one,
// and tells it what is wanted.
func (l Launch) start(ctx context.Context) (*spawn, error) {
	s, err := l.startScoped(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		l.Order.Unscoped = clipLine(plain(err.Error()))
	}
	if s == nil {
		s, err = l.run(l.Runner.Command(context.WithoutCancel(ctx), process.Self, l.arguments()...))
	}
	if err != nil {
		return nil, err
	}
	if err := errors.Join(l.Lock.Part(), s.order(l.Order)); err != nil {
		s.abort()
		s.settle()
		return nil, errors.Join(err, s.reports.Close())
	}
	return s, nil
}

func (l Launch) arguments() []string {
	return []string{"supervise", "--home", l.Home, "--name", l.Name}
}

// scopeTime bounds how long systemd may take to make a scope. It takes 10 to 50 ms; a
// user's systemd that hangs must not keep sandboxes from starting.
const scopeTime = 10 * time.Second

// startScoped runs the supervisor in a scope that the user's systemd makes for it. Where
// none is to be made both results are nil. Nothing has been ordered yet: a supervisor
// that does not say that it is there can be killed, and another one started.
func (l Launch) startScoped(ctx context.Context) (*spawn, error) {
	if !l.Groups.Scoped() {
		return nil, nil //nolint:nilnil // see above
	}
	s, err := l.run(l.Runner.Scoped(context.WithoutCancel(ctx), "SmolVM sandbox "+l.Name, l.arguments()...))
	if err != nil {
		return nil, err
	}
	if err := s.greeted(ctx); err != nil {
		s.kill()
		<-s.ended
		s.close()
		return nil, fmt.Errorf("ask systemd for a control group: %w: %s", err, lastWords(l.Log))
	}
	return s, nil
}

// run starts the supervisor. Its working folder is /, so that no file system is
// kept busy; its only open files are its log and the pipes.
func (l Launch) run(cmd *process.Cmd) (*spawn, error) {
	log, err := os.OpenFile(l.Log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault.New(fault.Storage, "", "open the supervisor's log: %w", err)
	}
	defer log.Close()
	reports, theirReports, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirReports.Close()
	theirOrders, orders, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, reports.Close())
	}
	defer theirOrders.Close()
	process.Detach(cmd)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.ExtraFiles = []*os.File{theirReports, theirOrders, l.Lock.File()} // reportsFD, ordersFD, lockFD
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, reports.Close(), orders.Close())
	}
	s := &spawn{
		reports: reports, orders: orders, lines: bufio.NewReaderSize(reports, maxLineBytes), ended: make(chan struct{}),
		kill: func() { _ = cmd.Process.Kill() }, // fails only when it has ended
	}
	go func() { // owned by the process: it only reaps a supervisor that ends before us
		defer close(s.ended)
		_ = cmd.Wait()
	}()
	return s, nil
}

// greeted waits for the first word of a supervisor. One that is late is killed.
func (s *spawn) greeted(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scopeTime, errors.New("no answer in time"))
	defer cancel()
	stop := context.AfterFunc(ctx, s.kill)
	r, err := s.next()
	switch {
	case !stop():
		return context.Cause(ctx)
	case err != nil:
		return errors.New("it was refused")
	case r.Type != reportHere:
		return fmt.Errorf("%q instead of a greeting", r.Type)
	}
	return nil
}

// follow takes the reports up to the last one, and commits.
func (s *spawn) follow(l Launch) (int64, error) {
	for {
		r, err := s.next()
		if err != nil {
			return 0, fault.New(fault.Internal, "Its messages are in "+l.Log+".",
				"start sandbox %q: its supervisor ended without a word: %s", l.Name, lastWords(l.Log))
		}
		switch r.Type {
		case reportEvent:
			if r.Event != nil {
				l.Sink.Emit(*r.Event)
			}
		case reportReady:
			_, _ = io.WriteString(s.orders, commitLine) // it ended when that fails, and says why
		case reportDone:
			return r.Bytes, nil
		case reportFailed:
			if r.Failure != nil {
				return 0, r.Failure.err()
			}
		}
	}
}

func (s *spawn) next() (report, error) {
	line, err := s.lines.ReadSlice('\n')
	if err != nil {
		return report{}, err
	}
	var r report
	return r, json.Unmarshal(line, &r)
}

// order says what is wanted. A supervisor that ended already tells why itself.
func (s *spawn) order(o Order) error {
	line, err := json.Marshal(o)
	if err == nil {
		_, err = s.orders.Write(append(line, '\n'))
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// abort tells the supervisor that nobody wants the sandbox any more.
func (s *spawn) abort() { _ = s.orders.Close() }

// settle waits until the supervisor has cleaned up.
func (s *spawn) settle() {
	late := time.NewTimer(abortTimeout)
	defer late.Stop()
	select {
	case <-s.ended:
	case <-late.C:
	}
}

func (s *spawn) close() {
	_ = s.orders.Close()
	_ = s.reports.Close()
}

// lastWords quotes the end of the supervisor's log.
func lastWords(path string) string {
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		return "it wrote nothing"
	}
	const most = 1 << 10
	return strings.TrimSpace(plain(string(data[max(0, len(data)-most):])))
}
