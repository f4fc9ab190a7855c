// Package guestlink is the host's end of the guest link: the one byte stream
// between the supervisor and the guest agent, on which many streams travel
// (yamux) beside a channel of control messages.
//
// Input is the byte stream that a VMM driver hands over, possibly led by bytes
// of an earlier boot; output is a Link: messages of the guest, and streams
// opened by the host. The guest is not trusted: every message, line and window
// is bounded, and a guest that breaks the protocol loses the link, nothing else.
// Nothing is kept on disk.
package guestlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// writeTimeout is how long one frame may wait for a guest that does not read.
	// It is far above yamux's 10 s: an emulated guest on a busy host, or a host
	// that was suspended, is slow and not broken.
	writeTimeout = 2 * time.Minute
	// closeTimeout is how long a stream closed by the host waits for the guest's half.
	closeTimeout = 30 * time.Second
	// pendingStreams bounds streams that were opened and not yet answered, both
	// ways. A stream the guest opens can hold one window (256 KiB) of memory.
	pendingStreams = 16
	// window is how much a stream of the host may have under way. Every refill
	// costs an emulated guest two wake-ups, so it is larger than yamux's 256 KiB.
	window = 1 << 20
	// sendTimeout is how long a control message may wait for the guest.
	sendTimeout = 10 * time.Second
)

// ErrProtocol is in the chain of every error caused by a guest that breaks the protocol.
var ErrProtocol = errors.New("the guest broke the link's protocol")

// Link is one session with the guest agent: from the opening line of one boot
// to its end. Close must be called.
type Link struct {
	session  *yamux.Session
	control  *yamux.Stream
	messages chan wire.Message

	sending sync.Mutex     // one control message at a time
	running sync.WaitGroup // every goroutine of the link

	closing chan struct{} // closed by Close: nobody takes messages any more
	ended   chan struct{} // closed once the cause is known
	mu      sync.Mutex
	closed  bool  // Close was called: nothing more is started
	cause   error // the first reason for the end
}

// Open waits for the guest's opening line, answers it, and takes the control
// stream. On an error, and when ctx ends first, conn is closed.
func Open(ctx context.Context, conn net.Conn) (*Link, error) {
	l, err := open(ctx, conn, time.Now)
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open the guest link: %w", err)
	}
	return l, nil
}

func open(ctx context.Context, conn net.Conn, now func() time.Time) (*Link, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	in := bufio.NewReader(conn)
	if err := shakeHands(in, conn, muxBegun); err != nil {
		return nil, err
	}
	session, err := yamux.Client(newGuard(in, conn, now), sessionConfig())
	if err != nil {
		return nil, err
	}
	control, lines, err := takeControl(ctx, session)
	if err != nil {
		_ = session.Close()
		return nil, err
	}
	if !stop() { // ctx ended and may have set the deadline
		_ = session.Close()
		return nil, ctx.Err()
	}
	l := &Link{
		session: session, control: control,
		messages: make(chan wire.Message), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	l.running.Go(func() { l.receive(lines) })
	l.running.Go(l.refuse)
	return l, nil
}

func sessionConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false // the end of the VMM closes the stream
	c.AcceptBacklog = pendingStreams
	c.ConnectionWriteTimeout = writeTimeout
	c.StreamOpenTimeout = writeTimeout
	c.StreamCloseTimeout = closeTimeout
	c.MaxStreamWindowSize = window
	c.LogOutput = io.Discard // its lines quote what the guest sends
	return c
}

// takeControl accepts the guest's first stream, which has to be the control stream.
func takeControl(ctx context.Context, session *yamux.Session) (*yamux.Stream, *bufio.Reader, error) {
	stream, err := session.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("wait for the control stream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewReaderSize(stream, wire.MaxMessage)
	kind, err := lines.ReadSlice('\n')
	if err != nil {
		return nil, nil, fmt.Errorf("read the first stream's kind: %w", err)
	}
	if want := string(wire.StreamControl) + "\n"; string(kind) != want {
		return nil, nil, fmt.Errorf("%w: its first stream is %.40q", ErrProtocol, kind)
	}
	return stream, lines, nil
}

// Ping returns when the guest has answered a question that only a guest that runs can
// answer. It fails when the link ends, or after minutes.
func (l *Link) Ping() error {
	if _, err := l.session.Ping(); err != nil {
		return fmt.Errorf("ask the guest whether it lives: %w", err)
	}
	return nil
}

// Messages delivers what the guest says, in order and to its last word, and is
// closed when the link has ended.
// A guest that talks faster than the receiver listens is held back.
func (l *Link) Messages() <-chan wire.Message { return l.messages }

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.session.CloseChan() }

// Err is why the link ended: ErrProtocol in its chain when the guest is to
// blame, io.EOF when the guest closed it, nil after Close. It is known once
// Messages is closed.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Send gives the guest one control message.
func (l *Link) Send(m wire.Message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the %s message: %w", m.Type, err)
	}
	if len(line) >= wire.MaxMessage {
		return fmt.Errorf("encode the %s message: %d bytes, the limit is %d", m.Type, len(line), wire.MaxMessage)
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	_ = l.control.SetWriteDeadline(time.Now().Add(sendTimeout))
	if _, err := l.control.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send the %s message to the guest: %w", m.Type, err)
	}
	return nil
}

// Dial opens a stream of the given kind to the guest.
func (l *Link) Dial(ctx context.Context, kind wire.StreamKind) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	opened := make(chan result)
	if !l.start(func() {
		conn, err := l.dial(kind)
		select {
		case opened <- result{conn, err}:
		case <-ctx.Done():
			if err == nil {
				_ = conn.Close()
			}
		}
	}) {
		return nil, fmt.Errorf("open a %s stream to the guest: %w", kind, net.ErrClosed)
	}
	select {
	case r := <-opened:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("open a %s stream to the guest: %w", kind, ctx.Err())
	}
}

// start runs f in a goroutine of the link, unless the link was closed.
func (l *Link) start(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.running.Go(f)
	return true
}

func (l *Link) dial(kind wire.StreamKind) (net.Conn, error) {
	stream, err := l.session.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open a %s stream to the guest: %w", kind, err)
	}
	if _, err := io.WriteString(stream, string(kind)+"\n"); err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("name a %s stream to the guest: %w", kind, err)
	}
	return stream, nil
}

// Close ends the link with all its streams and waits until nothing of it runs.
func (l *Link) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.closing)
	}
	l.mu.Unlock()
	_ = l.session.Close()
	l.running.Wait()
	return nil
}

// fail ends the link; the first cause is kept.
func (l *Link) fail(cause error) {
	l.mu.Lock()
	if l.cause == nil && !l.closed {
		l.cause = cause
	}
	l.mu.Unlock()
	_ = l.session.Close()
}

// receive turns the control stream's lines into messages until it ends.
func (l *Link) receive(lines *bufio.Reader) {
	defer func() {
		<-l.ended // whoever has seen the last message may ask for the cause
		close(l.messages)
	}()
	for {
		m, err := readMessage(lines)
		if errors.Is(err, ErrProtocol) {
			l.fail(err)
		}
		if err != nil {
			_ = l.session.Close() // refuse learns the session's own reason
			return
		}
		select {
		case l.messages <- m:
		case <-l.closing:
			return
		}
	}
}

// refuse ends the link when the guest opens a second stream: only the host
// opens streams after the control stream.
func (l *Link) refuse() {
	defer close(l.ended)
	_, err := l.session.AcceptStream()
	if err == nil {
		err = fmt.Errorf("%w: it opened a second stream", ErrProtocol)
	}
	l.fail(err)
}

// readMessage reads one control message. lines must have a buffer of wire.MaxMessage.
func readMessage(lines *bufio.Reader) (wire.Message, error) {
	line, err := lines.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return wire.Message{}, fmt.Errorf("%w: a control message is longer than %d bytes", ErrProtocol, wire.MaxMessage)
	case err != nil:
		return wire.Message{}, err
	}
	var m wire.Message
	if err := json.Unmarshal(line, &m); err != nil {
		return wire.Message{}, fmt.Errorf("%w: a control message is not valid: %w", ErrProtocol, err)
	}
	if m.Type == "" {
		return wire.Message{}, fmt.Errorf("%w: a control message has no type", ErrProtocol)
	}
	return m, nil
}
