package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// largestDatagram is how large the chunks of datagrams are.
const largestDatagram = 64 << 10

// chunks are buffers that are held only while something is moved, so that a
// connection without traffic costs none. They hold no state.
type chunks struct {
	pool  sync.Pool
	slots chan struct{} // as many as there may be at a time; nil: any number
}

func newChunks(size, most int) *chunks {
	c := &chunks{pool: sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
	if most > 0 {
		c.slots = make(chan struct{}, most)
	}
	return c
}

func (c *chunks) take() *[]byte {
	if c.slots != nil {
		c.slots <- struct{}{}
	}
	return c.pool.Get().(*[]byte)
}

func (c *chunks) give(b *[]byte) {
	c.pool.Put(b)
	if c.slots != nil {
		<-c.slots
	}
}

// errReset says that one side broke the connection off.
var errReset = errors.New("connection reset")

// guestEnd is the guest's side of a connection: an endpoint of the stack.
type guestEnd struct {
	ep     tcpip.Endpoint
	queue  *waiter.Queue
	closed chan struct{} // closed to end waiting reads and writes
	begun  []byte        // that was read already
}

// read calls take with what the guest sent, as it comes, until the guest closes
// its side (io.EOF), take fails, or the connection ends.
func (g guestEnd) read(c *chunks, take func([]byte) error) error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	g.queue.EventRegister(&entry)
	defer g.queue.EventUnregister(&entry)
	if len(g.begun) > 0 {
		if err := take(g.begun); err != nil {
			return err
		}
	}
	for {
		n, terr, err := g.readOnce(c, take)
		switch {
		case err != nil:
			return err
		case terr == nil && n >= 0:
			continue
		}
		switch terr.(type) {
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-g.closed:
				return net.ErrClosed
			}
		case *tcpip.ErrClosedForReceive:
			return io.EOF
		case *tcpip.ErrConnectionRefused: // the guest's port is closed; UDP goes on
		default:
			return errReset
		}
	}
}

func (g guestEnd) readOnce(c *chunks, take func([]byte) error) (int, tcpip.Error, error) {
	buf := c.take()
	defer c.give(buf)
	w := tcpip.SliceWriter(*buf)
	result, terr := g.ep.Read(&w, tcpip.ReadOptions{})
	if terr != nil {
		return 0, terr, nil
	}
	return result.Count, nil, take((*buf)[:result.Count])
}

// Write sends all of p to the guest.
func (g guestEnd) Write(p []byte) (int, error) {
	var entry waiter.Entry
	var ready chan struct{}
	var reader bytes.Reader
	done := 0
	for done < len(p) || len(p) == 0 {
		reader.Reset(p[done:])
		n, terr := g.ep.Write(&reader, tcpip.WriteOptions{})
		done += int(n)
		switch terr.(type) {
		case nil:
			if len(p) == 0 {
				return 0, nil
			}
			continue
		case *tcpip.ErrWouldBlock:
		default:
			return done, errReset
		}
		if ready == nil {
			entry, ready = waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
			g.queue.EventRegister(&entry)
			defer g.queue.EventUnregister(&entry)
			continue // it may have become writable meanwhile
		}
		select {
		case <-ready:
		case <-g.closed:
			return done, net.ErrClosed
		}
	}
	return done, nil
}

// readHost calls take with what came over a connection of this computer, as it
// comes, until its end (io.EOF), or take fails.
func readHost(conn net.Conn, c *chunks, take func([]byte) error) error {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return readPlain(conn, c, take)
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var buf *[]byte
		var n int
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			buf = c.take()
			for {
				n, failed = syscall.Read(int(fd), *buf)
				if !errors.Is(failed, syscall.EINTR) {
					break
				}
			}
			if errors.Is(failed, syscall.EAGAIN) {
				c.give(buf)
				buf = nil
				return false
			}
			return true
		})
		if buf == nil {
			return err
		}
		err = handOn(conn, *buf, n, errors.Join(err, failed), take)
		c.give(buf)
		if err != nil {
			return err
		}
	}
}

// handOn gives what was read to take.
func handOn(conn net.Conn, buf []byte, n int, err error, take func([]byte) error) error {
	switch _, datagrams := conn.(*net.UDPConn); {
	case err != nil:
		return err
	case n == 0 && !datagrams:
		return io.EOF
	}
	return take(buf[:n])
}

// readPlain is readHost for connections that are no sockets.
func readPlain(conn net.Conn, c *chunks, take func([]byte) error) error {
	buf := c.take()
	defer c.give(buf)
	for {
		n, err := conn.Read(*buf)
		if n > 0 {
			if err := take((*buf)[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// idle ends something after a time without traffic.
type idle struct {
	mu    sync.Mutex
	timer *time.Timer
	after time.Duration
}

func newIdle(after time.Duration, end func()) *idle {
	return &idle{timer: time.AfterFunc(after, end), after: after}
}

func (i *idle) touch() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.timer.Stop() {
		i.timer.Reset(i.after)
	}
}

func (i *idle) stop() { i.timer.Stop() }
