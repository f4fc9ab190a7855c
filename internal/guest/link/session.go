//go:build linux

package link

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/smolvm/smolvm/internal/wire"
)

// maxStale bounds the bytes of an earlier session that may precede the echo.
const maxStale = 1 << 20

// maxKind bounds the first line of a stream.
const maxKind = 64

// patience is how long a host may not read before a write fails. A suspended
// host suspends the machine too, so this only ends what nobody will ever read.
const patience = 24 * time.Hour

// window is how much a stream may have under way. Larger than yamux' own 256
// KiB, because every refill costs two wake-ups of an emulated processor.
const window = 1 << 20

// Session is one opened guest link session.
type Session struct {
	mux     *yamux.Session
	control net.Conn
	lines   *bufio.Reader

	mu sync.Mutex // one message at a time
}

// Open writes the opening line, waits for the host's echo, starts yamux and
// opens the control stream. It returns when the host is there; closing the port
// or ending ctx interrupts it.
func Open(ctx context.Context, port Port, random io.Reader) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	reader, err := greet(port, random)
	if err != nil {
		return nil, fmt.Errorf("open guest link: %w", err)
	}
	mux, err := yamux.Server(&buffered{reader, port}, muxConfig())
	if err != nil {
		return nil, fmt.Errorf("open guest link: %w", err)
	}
	control, err := mux.Open()
	if err == nil {
		_, err = io.WriteString(control, string(wire.StreamControl)+"\n")
	}
	if err != nil {
		mux.Close()
		return nil, fmt.Errorf("open control stream: %w", err)
	}
	return &Session{mux: mux, control: control, lines: bufio.NewReaderSize(control, wire.MaxMessage)}, nil
}

// greet returns a reader that stands behind the echoed line.
func greet(port io.ReadWriter, random io.Reader) (*bufio.Reader, error) {
	nonce := make([]byte, wire.NonceLen)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("make nonce: %w", err)
	}
	line := wire.Magic + hex.EncodeToString(nonce) + "\n"
	if _, err := io.WriteString(port, line); err != nil {
		return nil, err
	}
	reader := bufio.NewReaderSize(port, 64<<10)
	for seen := 0; seen <= maxStale; {
		got, err := reader.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("wait for the host's answer: %w", err)
		}
		if strings.HasSuffix(string(got), line) {
			return reader, nil
		}
		seen += len(got)
	}
	return nil, errors.New("the host's answer never came")
}

// OpenRaw opens a port that carries no streams, only bytes, which are read from
// what it returns.
func OpenRaw(ctx context.Context, port Port, random io.Reader) (io.Reader, error) {
	stop := context.AfterFunc(ctx, func() { port.Close() })
	defer stop()
	return greet(port, random)
}

// buffered reads through what greet has read ahead.
type buffered struct {
	io.Reader
	io.WriteCloser
}

func muxConfig() *yamux.Config {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false // the port itself tells when the host is gone
	config.ConnectionWriteTimeout = patience
	config.StreamOpenTimeout = 0
	config.MaxStreamWindowSize = window
	config.LogOutput = io.Discard
	return config
}

// Accept waits for the host to open a stream and reads its kind. Streams whose
// kind does not come whole are closed; only the end of the session is an error.
func (s *Session) Accept() (net.Conn, wire.StreamKind, error) {
	for {
		stream, err := s.mux.Accept()
		if err != nil {
			return nil, "", fmt.Errorf("accept stream: %w", err)
		}
		kind, err := readKind(stream)
		if err != nil {
			stream.Close()
			continue
		}
		return stream, kind, nil
	}
}

// readKind reads byte by byte: what follows the line is the stream's own.
func readKind(stream net.Conn) (wire.StreamKind, error) {
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	defer stream.SetReadDeadline(time.Time{}) //nolint:errcheck // a failing stream fails its next read
	line := make([]byte, 0, maxKind)
	for one := make([]byte, 1); len(line) < maxKind; line = append(line, one[0]) {
		if _, err := io.ReadFull(stream, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return wire.StreamKind(line), nil
		}
	}
	return "", errors.New("stream kind is too long")
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session and closes the port.
func (s *Session) Close() error { return s.mux.Close() }
