package supervise

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// loopback joins a client to a port of the guest's own loopback.
func (s *server) loopback(ctx context.Context, conn *net.UnixConn, out *frameWriter, port int) error {
	client, err := s.guest.session(ctx)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	stream, err := client.Loopback(ctx, port)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	defer stream.Close()
	if err := out.send(accepted, nil); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(stream, conn)
		_ = stream.CloseWrite()
	})
	_, err = io.Copy(conn, stream)
	_ = conn.Close()
	up.Wait()
	return err
}

// Loopback connects to a port of the sandbox's own loopback.
func (c *Client) Loopback(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	call, err := c.begin(ctx, request{Op: opLoopback, Loopback: port})
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of the sandbox: %w", port, err)
	}
	return bulkStream{call}, nil
}
