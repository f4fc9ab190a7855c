//go:build linux

// Package port serves the port streams of the guest link: connections to what
// listens on the guest's loopback, and the list of what listens. Input is the
// kernel's list of sockets and of programs; nothing is kept.
package port

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/smolvm/smolvm/internal/carry"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// requestTime is how long the first line may take.
	requestTime = 10 * time.Second
	// dialTime bounds a connection to the guest itself.
	dialTime = 10 * time.Second
)

// Server serves port streams.
type Server struct{ proc string }

// New makes a Server that reads the kernel's files below proc.
func New(proc string) *Server { return &Server{proc} }

// Serve serves one stream to its end, or until ctx ends.
func (s *Server) Serve(ctx context.Context, stream net.Conn) error {
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	in := bufio.NewReaderSize(stream, wire.MaxMessage)
	_ = stream.SetReadDeadline(time.Now().Add(requestTime))
	line, err := in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the request of a port stream: %w", err)
	}
	_ = stream.SetReadDeadline(time.Time{})
	var r wire.PortRequest
	if err := json.Unmarshal(line, &r); err != nil {
		return answer(stream, wire.PortAnswer{Error: "the request cannot be read"})
	}
	switch r.Op {
	case wire.PortDial:
		return dial(ctx, r.Port, in, stream)
	case wire.PortList:
		found, err := s.list()
		a := wire.PortAnswer{Listening: found}
		if err != nil {
			a.Error = err.Error()
		}
		return answer(stream, a)
	}
	return answer(stream, wire.PortAnswer{Error: fmt.Sprintf("unknown operation %.40q", r.Op)})
}

func answer(stream net.Conn, a wire.PortAnswer) error {
	line, err := json.Marshal(a)
	if err == nil {
		_, err = stream.Write(append(line, '\n'))
	}
	return err
}

// dial joins the stream to a port of the loopback, of IPv4 or IPv6.
func dial(ctx context.Context, port int, in *bufio.Reader, stream net.Conn) error {
	dialer := net.Dialer{Timeout: dialTime}
	var failures []error
	for _, address := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if err := answer(stream, wire.PortAnswer{}); err != nil {
			return errors.Join(err, conn.Close())
		}
		return carry.Join(conn.(*net.TCPConn), in, stream)
	}
	return answer(stream, wire.PortAnswer{Error: failures[0].Error()})
}
