// Package linktest is the guest's end of the guest link for tests of the host's
// end. It is imported by tests only and keeps nothing on disk.
package linktest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/hashicorp/yamux"

	"github.com/smolvm/smolvm/internal/wire"
)

// Nonce is a nonce for tests that need no other.
var Nonce = strings.Repeat("5a", wire.NonceLen)

// Guest is an open session.
type Guest struct {
	session *yamux.Session
	control net.Conn
	lines   *bufio.Reader
}

// Open writes the opening line, waits for its echo, and opens the control stream.
func Open(conn net.Conn, nonce string) (*Guest, error) {
	line := wire.Magic + nonce + "\n"
	if _, err := io.WriteString(conn, line); err != nil {
		return nil, err
	}
	echo := make([]byte, len(line))
	if _, err := io.ReadFull(conn, echo); err != nil {
		return nil, err
	}
	if string(echo) != line {
		return nil, fmt.Errorf("the host echoed %q", echo)
	}
	return Multiplex(conn)
}

// Multiplex is Open without the opening line.
func Multiplex(conn net.Conn) (*Guest, error) {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	session, err := yamux.Server(conn, config)
	if err != nil {
		return nil, err
	}
	g := &Guest{session: session}
	if g.control, err = g.OpenStream(string(wire.StreamControl)); err != nil {
		_ = session.Close()
		return nil, err
	}
	g.lines = bufio.NewReader(g.control)
	return g, nil
}

// OpenStream opens a stream of any kind.
func (g *Guest) OpenStream(kind string) (net.Conn, error) {
	stream, err := g.session.Open()
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(stream, kind+"\n")
	return stream, err
}

// Write writes raw bytes to the control stream.
func (g *Guest) Write(p []byte) (int, error) { return g.control.Write(p) }

// Send sends a control message.
func (g *Guest) Send(m wire.Message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = g.control.Write(append(line, '\n'))
	return err
}

// Receive waits for a control message of the host.
func (g *Guest) Receive() (wire.Message, error) {
	line, err := g.lines.ReadBytes('\n')
	if err != nil {
		return wire.Message{}, err
	}
	var m wire.Message
	return m, json.Unmarshal(line, &m)
}

// Accept waits for a stream of the host.
func (g *Guest) Accept() (net.Conn, wire.StreamKind, error) {
	stream, err := g.session.Accept()
	if err != nil {
		return nil, "", err
	}
	var kind []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(stream, one); err != nil {
			return nil, "", err
		}
		if one[0] == '\n' {
			return stream, wire.StreamKind(kind), nil
		}
		kind = append(kind, one[0])
	}
}

// Close ends the session.
func (g *Guest) Close() error { return g.session.Close() }
