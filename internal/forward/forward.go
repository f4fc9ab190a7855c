// Package forward listens on ports of this computer and leads what connects to
// ports of one sandbox.
//
// Inputs are forwards, and a way to reach the sandbox; outputs are open ports.
// Nothing is kept on disk: the record has what was asked for. A connection that
// comes while the sandbox boots waits for it.
package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/carry"
	"github.com/smolvm/smolvm/internal/port"
)

const (
	// most is how many connections a sandbox has at once; more wait.
	most = 256
	// acceptPause is the pause after a failed accept: it would fail again at once.
	acceptPause = 200 * time.Millisecond
	// tries is how often a free port of both families is looked for.
	tries = 20
)

// Sandbox reaches a port of the sandbox. What it gives reads and writes as the
// room carry has it.
type Sandbox interface {
	Port(ctx context.Context, port int) (*bufio.Reader, io.ReadWriteCloser, error)
}

// Table is the open forwards of a sandbox.
type Table struct {
	ctx     context.Context //nolint:containedctx // of everything that the table started
	cancel  context.CancelFunc
	sandbox Sandbox
	log     *slog.Logger
	slots   chan struct{} // one for each connection
	// Use is asked for each connection, and what it gives is called at its end. One
	// that it refuses is closed. Set before Add.
	Use     func() (end func(), err error)
	running sync.WaitGroup

	mu   sync.Mutex
	open []*entry
}

// entry is one forward that listens.
type entry struct {
	port.Forward
	listeners []net.Listener
}

// New makes an empty table. Connections end with ctx, and with Close.
func New(ctx context.Context, sandbox Sandbox, log *slog.Logger) *Table {
	ctx, cancel := context.WithCancel(ctx)
	return &Table{ctx: ctx, cancel: cancel, sandbox: sandbox, log: log, slots: make(chan struct{}, most), Use: func() (func(), error) { return func() {}, nil }}
}

// Add begins to listen, and gives the forward with the port it got. One that
// listens already is left as it is.
func (t *Table) Add(f port.Forward) (port.Forward, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.open {
		if e.Same(f) {
			return e.Forward, nil
		}
	}
	listeners, got, err := listen(t.ctx, f)
	if err != nil {
		return f, err
	}
	e := &entry{got, listeners}
	t.open = append(t.open, e)
	for _, l := range listeners {
		t.running.Go(func() { t.accept(l, got.Guest) })
	}
	return got, nil
}

// Remove stops listening; connections go on.
func (t *Table) Remove(f port.Forward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, e := range t.open {
		if e.Same(f) {
			closeAll(e.listeners)
			t.open = append(t.open[:i], t.open[i+1:]...)
			return
		}
	}
}

// Listens tells whether a forward does.
func (t *Table) Listens(f port.Forward) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.open {
		if e.Same(f) {
			return true
		}
	}
	return false
}

// Connections is how many there are now.
func (t *Table) Connections() int { return len(t.slots) }

// Close ends everything and waits for it.
func (t *Table) Close() {
	t.cancel()
	t.mu.Lock()
	for _, e := range t.open {
		closeAll(e.listeners)
	}
	t.open = nil
	t.mu.Unlock()
	t.running.Wait()
}

func (t *Table) accept(l net.Listener, guest int) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.log.Warn("accept a connection to a forwarded port", "error", err)
			select {
			case <-time.After(acceptPause):
				continue
			case <-t.ctx.Done():
				return
			}
		}
		select {
		case t.slots <- struct{}{}:
		case <-t.ctx.Done():
			_ = conn.Close()
			return
		}
		t.running.Go(func() {
			defer func() { <-t.slots }()
			t.carry(conn.(*net.TCPConn), guest)
		})
	}
}

// carry leads one connection into the sandbox.
func (t *Table) carry(conn *net.TCPConn, guest int) {
	end, err := t.Use()
	if err != nil {
		refuse(conn)
		return
	}
	defer end()
	in, stream, err := t.sandbox.Port(t.ctx, guest)
	if err != nil {
		refuse(conn)
		return
	}
	stop := context.AfterFunc(t.ctx, func() { _, _ = stream.Close(), conn.Close() })
	defer stop()
	_ = carry.Join(conn, in, stream) // what broke, both sides see
}

// refuse ends a connection as one to a closed port, and not with an empty answer.
func refuse(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// listen opens a forward's port on all of its addresses.
func listen(ctx context.Context, f port.Forward) ([]net.Listener, port.Forward, error) {
	listeners, got, err := listenOn(ctx, f)
	if err == nil || !f.Any || f.Host == 0 || !busy(err) {
		return listeners, got, err
	}
	f.Host = 0
	for range tries { // the port that is free for IPv4 may not be for IPv6
		if listeners, got, err = listenOn(ctx, f); err == nil || !busy(err) {
			break
		}
	}
	return listeners, got, err
}

// listenOn opens one port. Of the loopback's two addresses one that this computer
// does not have is left out.
func listenOn(ctx context.Context, f port.Forward) (listeners []net.Listener, _ port.Forward, err error) {
	var config net.ListenConfig
	var missing error
	for _, address := range f.Addresses() {
		l, err := config.Listen(ctx, network(address), net.JoinHostPort(address, strconv.Itoa(f.Host)))
		switch {
		case err == nil:
			listeners = append(listeners, l)
			f.Host = l.Addr().(*net.TCPAddr).Port
		case f.Address == "" && absent(err):
			missing = err
		default:
			closeAll(listeners)
			return nil, f, &Error{Address: address, Port: f.Host, Err: err}
		}
	}
	if len(listeners) == 0 {
		return nil, f, &Error{Address: f.Addresses()[0], Port: f.Host, Err: missing}
	}
	return listeners, f, nil
}

// network keeps :: from taking IPv4's port as well.
func network(address string) string {
	if net.ParseIP(address).To4() == nil {
		return "tcp6"
	}
	return "tcp4"
}

// Error is why a port cannot be listened on.
type Error struct {
	Address string
	Port    int
	Err     error
}

func (e *Error) Error() string {
	return fmt.Sprintf("listen on %s: %v", net.JoinHostPort(e.Address, strconv.Itoa(e.Port)), e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Taken says that somebody else listens there.
func (e *Error) Taken() bool { return errors.Is(e.Err, syscall.EADDRINUSE) }

// busy says that another port might do: it is taken, or only root may have it.
func busy(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES)
}

// absent says that this computer has no such address.
func absent(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close()
	}
}

// Try tells whether a forward could listen now, and leaves nothing.
func Try(ctx context.Context, f port.Forward) error {
	listeners, _, err := listen(ctx, f)
	closeAll(listeners)
	return err
}
