package supervise

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sshx"
	"github.com/smolvm/smolvm/internal/wire"
)

// errHungUp says that the client went away.
var errHungUp = errors.New("the client hung up")

// relay carries one program between a client and the guest.
//
// The client's frames are always read, so that its going away is noticed at
// once; what a program does not read is held in input, which the client's
// credit bounds. Output is held back by the client's reading: a program writes
// as fast as the client reads.
type relay struct {
	conn   *net.UnixConn
	in     *frameReader
	out    *frameWriter
	guest  sessions
	wanted *addresses // that the guest wants opened

	input  *inflow
	client *sshx.Client // that the program's session is one of

	mu      sync.Mutex
	session *sshx.Session // nil until the program runs
}

// run runs the program to its end. ctx ends with the sandbox.
func (r *relay) run(ctx context.Context, command Command) error {
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)
	r.input = newInflow()
	stop := context.AfterFunc(ctx, func() {
		r.input.cancel()
		_ = r.conn.SetWriteDeadline(time.Now().Add(answerTimeout)) // a client that does not read
		var hung *hungError
		if errors.As(context.Cause(ctx), &hung) { // the program's streams end late: its client need not wait for them
			_ = r.answer(failed, failureOf(hung))
			_ = r.conn.Close()
		}
	})
	defer stop()

	var reading sync.WaitGroup
	reading.Go(func() { hangUp(r.readClient()) })
	defer reading.Wait()
	defer r.conn.Close() // ends readClient

	defer r.forwardAgent(ctx, &command)()
	tellAddresses, tellRest := r.showAddresses(command)
	defer tellRest()
	session, err := r.start(ctx, command)
	if err != nil {
		return r.answer(failed, failureOf(r.explainLoss(ctx, err)))
	}
	defer session.Close()
	release := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer release()
	if err := r.out.send(accepted, nil); err != nil {
		return err
	}
	tellAddresses()
	exit, err := r.carry(ctx, session, hangUp)
	tellRest()
	if err == nil && swept(command, exit) {
		err = r.guest.farewell(r.client, 0)
	}
	if err != nil {
		return r.answer(failed, failureOf(r.explainLoss(ctx, err)))
	}
	return r.answer(exited, exitReport{Status: exit.Status, Signal: exit.Signal})
}

// answer sends the last frame.
func (r *relay) answer(k kind, value any) error {
	_ = r.conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return r.out.sendJSON(k, value)
}

// start opens the session: once more where the connection turns out to have ended
// before, as it does when the machine was kept.
func (r *relay) start(ctx context.Context, command Command) (*sshx.Session, error) {
	session, err := r.open(ctx, command)
	if errors.Is(err, sshx.ErrEnded) {
		session, err = r.open(ctx, command)
	}
	return session, err
}

func (r *relay) open(ctx context.Context, command Command) (*sshx.Session, error) {
	client, err := r.guest.session(ctx)
	if err != nil {
		return nil, err
	}
	var tty *sshx.TTY
	if command.TTY {
		tty = &sshx.TTY{Term: command.Term, Size: command.Size}
	}
	session, err := client.Start(ctx, command.Start, tty)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session, r.client = session, client
	return session, nil
}

// forwardAgent lets the guest reach the user's SSH agent as long as the client is
// there, where it named one.
func (r *relay) forwardAgent(ctx context.Context, command *Command) (end func()) {
	path := command.SSHAgentAt
	command.SSHAgent = path != ""
	if path == "" {
		return func() {}
	}
	client, err := r.guest.session(ctx)
	if err != nil {
		return func() {} // start says it
	}
	return client.ForwardAgent(func() (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	})
}

// carry moves the three streams until the program has ended.
func (r *relay) carry(ctx context.Context, session *sshx.Session, hangUp func(error)) (sshx.Exit, error) {
	var input, output sync.WaitGroup
	input.Go(func() { r.sendInput(session) })
	for k, from := range map[kind]io.Reader{stdout: session.Stdout(), stderr: session.Stderr()} {
		output.Go(func() {
			if err := r.out.sendStream(k, from); err != nil {
				hangUp(fmt.Errorf("%w: %w", errHungUp, err))
			}
		})
	}
	output.Wait()
	exit, err := session.Wait()
	r.input.cancel()
	_ = session.Close()
	input.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return exit, err
}

// swept tells whether a program ended as those do that a machine ends with itself:
// by a signal, or in whatever way its session has. An order to end the machine comes
// back with its own status.
func swept(command Command, exit sshx.Exit) bool {
	return command.Keep || exit.Signal != "" || exit.Status > 128
}

// explainLoss says why a program could not be run, or not to its end.
func (r *relay) explainLoss(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errHungUp) {
		err = cause
	}
	lost := errors.Is(err, sshx.ErrLost)
	if lost || errors.Is(err, errStopped) {
		if farewell := r.guest.farewell(r.client, farewellTime); farewell != nil {
			return farewell
		}
	}
	if lost || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return fault.New(fault.NotRunning, "See smolvm logs for what happened.",
			"the sandbox stopped or restarted while the program was running")
	}
	return err
}

// sendInput gives the program its input and the client new credit for it. What
// a program no longer takes is dropped, as a closed pipe does.
func (r *relay) sendInput(session *sshx.Session) {
	to := session.Stdin()
	buf := make([]byte, chunk)
	for {
		n, err := r.input.Read(buf)
		if n > 0 && to != nil {
			if _, err := to.Write(buf[:n]); err != nil {
				to = nil
			}
		}
		if n > 0 && r.out.send(credit, binary.BigEndian.AppendUint32(nil, uint32(n))) != nil {
			return // the client is gone: its reader sees it too
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = session.CloseStdin()
			}
			return
		}
	}
}

// readClient takes the client's frames until it goes away.
func (r *relay) readClient() error {
	for {
		k, payload, err := r.in.next()
		if err == nil {
			err = r.take(k, payload)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errHungUp, err)
		}
	}
}

// take handles one frame of the client, which sends none before the program runs.
func (r *relay) take(k kind, payload []byte) error {
	r.mu.Lock()
	session := r.session
	r.mu.Unlock()
	if session == nil {
		return fmt.Errorf("frame %q before the program ran", byte(k))
	}
	switch k {
	case stdin:
		return r.input.add(payload)
	case stdinEnd:
		r.input.end()
	case resize:
		var size wire.Size
		if err := json.Unmarshal(payload, &size); err != nil {
			return fmt.Errorf("decode a size: %w", err)
		}
		_ = session.Resize(size) // a program that has ended is no reason to hang up
	case signal:
		_ = session.Signal(string(payload))
	default:
		return fmt.Errorf("unexpected frame %q", byte(k))
	}
	return nil
}

// inflow holds input that the program has not read yet.
type inflow struct {
	mu       sync.Mutex
	change   sync.Cond
	data     []byte
	ended    bool // nothing more comes
	canceled bool // nobody reads any more
}

func newInflow() *inflow {
	f := &inflow{}
	f.change.L = &f.mu
	return f
}

// add appends bytes; more than the credit allows is a breach of protocol.
func (f *inflow) add(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.data)+len(p) > stdinCredit {
		return errors.New("more input than credit")
	}
	f.data = append(f.data, p...)
	f.change.Signal()
	return nil
}

func (f *inflow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.change.Signal()
}

func (f *inflow) cancel() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.canceled = true
	f.change.Signal()
}

// Read waits for input. It ends with io.EOF after end, with net.ErrClosed after cancel.
func (f *inflow) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.data) == 0 && !f.ended && !f.canceled {
		f.change.Wait()
	}
	switch {
	case f.canceled:
		return 0, net.ErrClosed
	case len(f.data) == 0:
		return 0, io.EOF
	}
	n := copy(p, f.data)
	f.data = append(f.data[:0], f.data[n:]...) // at most stdinCredit: a short move
	return n, nil
}
