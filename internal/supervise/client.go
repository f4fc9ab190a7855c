package supervise

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// Client asks things of one supervisor. Every operation has a connection of its
// own, so that any number may run side by side.
type Client struct {
	socket string

	watch   sync.Once
	running sync.WaitGroup
	done    chan struct{} // closed when the supervisor has ended
	closed  context.Context
	close   context.CancelFunc
}

// Streams are a program's standard streams on this side. A nil In is an empty
// one; nil outputs are dropped. Resize and Signals may be nil.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Resize   <-chan wire.Size
	Signals  <-chan string // names without SIG
	// Opening is called with what the guest wants opened; it does not block. Nil:
	// it is not shown here.
	Opening func(address string)
}

// Dial makes sure that a supervisor answers at the socket. It fails with NotRunning where none does.
func Dial(ctx context.Context, socket string) (*Client, error) {
	c := &Client{socket: socket, done: make(chan struct{})}
	c.closed, c.close = context.WithCancel(context.Background())
	if _, err := c.Status(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the client and what was started by Done. It does not end operations.
func (c *Client) Close() error {
	c.close()
	c.running.Wait()
	return nil
}

// Done is closed when the supervisor ends, and by Close.
func (c *Client) Done() <-chan struct{} {
	c.watch.Do(func() {
		c.running.Go(func() {
			defer close(c.done)
			if call, err := c.begin(c.closed, request{Op: opWatch}); err == nil {
				defer call.end()
				_, _, _ = call.in.next() // returns at the end of the connection
			}
		})
	})
	return c.done
}

// Status asks how the sandbox is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	call, err := c.begin(ctx, request{Op: opStatus})
	if err != nil {
		return Status{}, err
	}
	defer call.end()
	var s Status
	if err := json.Unmarshal(call.answer, &s); err != nil {
		return Status{}, fmt.Errorf("decode the sandbox's status: %w", err)
	}
	return s, nil
}

// Stop powers the guest off, switches it off when grace is over, and returns
// when the supervisor has released the sandbox.
func (c *Client) Stop(ctx context.Context, grace time.Duration) error {
	call, err := c.begin(ctx, request{Op: opStop, Grace: grace})
	if err != nil {
		return err
	}
	call.end()
	return nil
}

// SSH carries a bare SSH connection between stream and the guest's server until
// one of them ends it. A Read of stream that is in progress then goes on in the
// background: nothing can interrupt it.
func (c *Client) SSH(ctx context.Context, stream io.ReadWriter) error {
	call, err := c.begin(ctx, request{Op: opSSH})
	if err != nil {
		return err
	}
	defer call.end()
	go func() {
		_, _ = io.Copy(call.conn, stream)
		_ = call.conn.CloseWrite()
	}()
	_, err = io.Copy(stream, call.conn)
	return call.explain("carry an SSH connection", err)
}

// Copy opens a stream on which files are copied, as the request says; its caller
// speaks the protocol of the room treecopy and closes it.
func (c *Client) Copy(ctx context.Context, wanted wire.Copy) (io.ReadWriteCloser, error) {
	call, err := c.begin(ctx, request{Op: opBulk, Copy: &wanted})
	if err != nil {
		return nil, err
	}
	return bulkStream{call}, nil
}

// bulkStream is a call whose bytes are raw.
type bulkStream struct{ call *call }

func (b bulkStream) Read(p []byte) (int, error) { return b.call.conn.Read(p) }

func (b bulkStream) Write(p []byte) (int, error) { return b.call.conn.Write(p) }

// CloseWrite ends this side's bytes.
func (b bulkStream) CloseWrite() error { return b.call.conn.CloseWrite() }

func (b bulkStream) Close() error {
	b.call.end()
	return nil
}

// Port changes what is forwarded, or asks about it.
func (c *Client) Port(ctx context.Context, wanted PortRequest) (PortReport, error) {
	call, err := c.begin(ctx, request{Op: opPort, Port: &wanted})
	if err != nil {
		return PortReport{}, err
	}
	defer call.end()
	var r PortReport
	if err := json.Unmarshal(call.answer, &r); err != nil {
		return PortReport{}, fmt.Errorf("decode the sandbox's ports: %w", err)
	}
	return r, nil
}

// Exec runs a program and returns its exit status: 128 + N when signal N ended
// it. Cancelling ctx hangs the program up. A Read of In that is in progress when
// the program ends goes on in the background, unless In has SetReadDeadline.
func (c *Client) Exec(ctx context.Context, command Command, streams Streams) (status int, err error) {
	command.Addresses = streams.Opening != nil
	call, err := c.begin(ctx, request{Op: opExec, Command: &command})
	if err != nil {
		return 0, err
	}
	defer call.end()
	input := newAllowance()
	defer input.close()
	if streams.In != nil {
		go call.sendStdin(streams.In, input) // may be stuck in Read for ever, see above
		defer interrupt(streams.In)
	} else {
		_ = call.out.send(stdinEnd, nil) // receive learns why it failed
	}
	var sides sync.WaitGroup
	finished, finish := context.WithCancel(ctx)
	sides.Go(func() { call.sendEvents(finished, streams) })
	defer sides.Wait()
	defer finish()
	return call.receive(streams, input)
}

// interrupt ends a Read in progress where that is possible.
func interrupt(in io.Reader) {
	if d, ok := in.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = d.SetReadDeadline(time.Unix(1, 0)) // fails where it is not supported
	}
}

// call is one operation under way.
type call struct {
	ctx    context.Context //nolint:containedctx // of the one operation this value lives for
	conn   *net.UnixConn
	in     frameReader
	out    frameWriter
	answer []byte
	stop   func() bool
}

// begin sends a request and waits until it is accepted.
func (c *Client) begin(ctx context.Context, r request) (*call, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, dialFault(ctx, err)
	}
	x := &call{ctx: ctx, conn: conn.(*net.UnixConn), in: frameReader{in: conn}, out: frameWriter{out: conn}}
	x.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	r.Version = r.since()
	k, payload, err := x.exchange(r)
	switch {
	case err != nil:
		err = x.explain("ask the sandbox's supervisor", err)
	case k == failed:
		err = decodeFailure(payload, r.Op)
	case k != accepted:
		err = fmt.Errorf("ask the sandbox's supervisor: it answered with frame %q", byte(k))
	}
	if err != nil {
		x.end()
		return nil, err
	}
	x.answer = payload
	return x, nil
}

func (x *call) exchange(r request) (kind, []byte, error) {
	if err := x.out.sendJSON(requested, r); err != nil {
		return 0, nil, err
	}
	return x.in.next()
}

func (x *call) end() {
	x.stop()
	_ = x.conn.Close()
}

// explain turns the end of the connection into what it means.
func (x *call) explain(attempt string, err error) error {
	switch {
	case err == nil:
		return nil
	case x.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", attempt, context.Cause(x.ctx))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fault.New(fault.NotRunning, "See smolvm logs for what happened, and start it again.",
			"%s: the sandbox stopped meanwhile", attempt)
	}
	return fmt.Errorf("%s: %w", attempt, err)
}

func dialFault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("connect to the sandbox's supervisor: %w", context.Cause(ctx))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fault.New(fault.NotRunning, "Start it with smolvm start.", "the sandbox is not running")
	}
	return fmt.Errorf("connect to the sandbox's supervisor: %w", err)
}

func decodeFailure(payload []byte, op operation) error {
	var f failure
	if err := json.Unmarshal(payload, &f); err != nil {
		return fmt.Errorf("decode a failure: %w", err)
	}
	return cmp.Or(errOther(op, f.Text), f.err())
}

// sendStdin passes the input on as far as the server gives credit.
func (x *call) sendStdin(in io.Reader, input *allowance) {
	buf := make([]byte, chunk)
	for {
		n, err := in.Read(buf)
		for sent := 0; sent < n; {
			part := input.take(n - sent)
			if part == 0 || x.out.send(stdin, buf[sent:sent+part]) != nil {
				return // the program has ended, or the connection
			}
			sent += part
		}
		if err != nil {
			_ = x.out.send(stdinEnd, nil)
			return
		}
	}
}

// sendEvents passes resizes and signals on.
func (x *call) sendEvents(ctx context.Context, streams Streams) {
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case size, ok := <-streams.Resize:
			if !ok {
				streams.Resize = nil
				continue
			}
			err = x.out.sendJSON(resize, size)
		case name, ok := <-streams.Signals:
			if !ok {
				streams.Signals = nil
				continue
			}
			err = x.out.send(signal, []byte(name))
		}
		if err != nil {
			return // receive sees the end of the connection too
		}
	}
}

// receive writes the program's output until it has ended.
func (x *call) receive(streams Streams, input *allowance) (int, error) {
	const attempt = "run a program in the sandbox"
	for {
		k, payload, err := x.in.next()
		if err != nil {
			return 0, x.explain(attempt, err)
		}
		switch k {
		case stdout:
			err = write(streams.Out, payload)
		case stderr:
			err = write(streams.Err, payload)
		case credit:
			var n int
			if n, err = decodeCredit(payload); err == nil {
				input.add(n)
			}
		case opening:
			var v addressView
			if err := json.Unmarshal(payload, &v); err == nil && wire.CheckAddress(v.Address) == nil && streams.Opening != nil {
				streams.Opening(v.Address)
			}
		case exited:
			var e exitReport
			if err := json.Unmarshal(payload, &e); err != nil {
				return 0, fmt.Errorf("%s: decode its exit status: %w", attempt, err)
			}
			return e.Status, nil
		case failed:
			return 0, decodeFailure(payload, opExec) // the supervisor's own words
		default:
			err = fmt.Errorf("unknown frame %q", byte(k))
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", attempt, err)
		}
	}
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(p)
	return err
}

// allowance is how many bytes of input may still be sent.
type allowance struct {
	mu     sync.Mutex
	change sync.Cond
	left   int
	closed bool
}

func newAllowance() *allowance {
	a := &allowance{left: stdinCredit}
	a.change.L = &a.mu
	return a
}

// take waits for some and takes at most want; 0 when closed.
func (a *allowance) take(want int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.left == 0 && !a.closed {
		a.change.Wait()
	}
	if a.closed {
		return 0
	}
	n := min(want, a.left)
	a.left -= n
	return n
}

func (a *allowance) add(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left += n
	a.change.Broadcast()
}

func (a *allowance) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.change.Broadcast()
}
