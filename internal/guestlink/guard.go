package guestlink

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// A yamux frame starts with version (1 byte), type (1), flags (2), stream (4)
// and length (4), big-endian; only data frames have a body.
// https://github.com/hashicorp/yamux/blob/v0.1.2/spec.md
const (
	frameHeader = 12
	frameData   = 0
	framePing   = 2
)

// The multiplexer answers each ping from a goroutine of its own, which waits
// while the guest does not read: pings are rationed, or a hostile guest could
// fill the host's memory. An honest guest sends two a minute, if any.
const (
	maxPings   = 64
	pingWindow = 10 * time.Second
)

// guard is the connection as the multiplexer sees it: it reads on where the
// opening left off and counts pings as they pass.
type guard struct {
	net.Conn
	in  io.Reader
	now func() time.Time

	header []byte // of the frame that is passing, up to frameHeader bytes
	body   uint64 // bytes of its body still to pass
	since  time.Time
	pings  int
}

func newGuard(in io.Reader, conn net.Conn, now func() time.Time) *guard {
	return &guard{Conn: conn, in: in, now: now, header: make([]byte, 0, frameHeader)}
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.in.Read(p)
	if fault := g.watch(p[:n]); fault != nil {
		return 0, fault
	}
	return n, err
}

// watch follows the frames in b.
func (g *guard) watch(b []byte) error {
	for len(b) > 0 {
		if g.body > 0 {
			n := min(g.body, uint64(len(b)))
			g.body -= n
			b = b[n:]
			continue
		}
		n := min(frameHeader-len(g.header), len(b))
		g.header = append(g.header, b[:n]...)
		b = b[n:]
		if len(g.header) < frameHeader {
			continue
		}
		if err := g.frame(); err != nil {
			return err
		}
		g.header = g.header[:0]
	}
	return nil
}

// frame judges a whole header.
func (g *guard) frame() error {
	switch g.header[1] {
	case frameData:
		g.body = uint64(binary.BigEndian.Uint32(g.header[8:]))
	case framePing:
		if now := g.now(); now.Sub(g.since) > pingWindow {
			g.since, g.pings = now, 0
		}
		if g.pings++; g.pings > maxPings {
			return fmt.Errorf("%w: more than %d pings in %v", ErrProtocol, maxPings, pingWindow)
		}
	}
	return nil
}
