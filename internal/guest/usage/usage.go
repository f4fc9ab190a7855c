//go:build linux

// Package usage serves the usage streams of the guest link: what the machine uses,
// told again and again as long as somebody listens. Input is the kernel's own
// accounts; nothing is kept, and nothing is read while no stream is open.
package usage

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// requestTime is how long the first line may take, tellTime how long the host may
	// take to read one of ours.
	requestTime = 10 * time.Second
	tellTime    = 30 * time.Second
)

// Server serves usage streams.
type Server struct{ proc, disk string }

// New makes a Server that reads the kernel's files below proc, and measures the
// file system at disk.
func New(proc, disk string) *Server { return &Server{proc, disk} }

// Serve serves one stream until it is closed or ctx ends.
func (s *Server) Serve(ctx context.Context, stream net.Conn) error {
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	_ = stream.SetReadDeadline(time.Now().Add(requestTime))
	line, err := bufio.NewReaderSize(stream, wire.MaxMessage).ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the request of a usage stream: %w", err)
	}
	_ = stream.SetReadDeadline(time.Time{})
	var r wire.UsageRequest
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("read the request of a usage stream: %w", err)
	}
	every := min(max(time.Duration(r.EveryMS)*time.Millisecond, wire.MinUsage), wire.MaxUsage)
	return s.tell(ctx, stream, every)
}

func (s *Server) tell(ctx context.Context, stream net.Conn, every time.Duration) error {
	gone := make(chan struct{})
	go func() { // ends with the stream, which Serve closes
		defer close(gone)
		_, _ = stream.Read(make([]byte, 1)) // a listener says nothing
	}()
	defer func() {
		_ = stream.Close()
		<-gone
	}()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		usage, err := s.Read()
		if err != nil {
			return err
		}
		line, err := json.Marshal(usage)
		if err != nil {
			return err
		}
		_ = stream.SetWriteDeadline(time.Now().Add(tellTime))
		if _, err := stream.Write(append(line, '\n')); err != nil {
			return err
		}
		select {
		case <-ticks.C:
		case <-gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
