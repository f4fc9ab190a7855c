package sshx

import (
	"context"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// Stream is a connection inside an SSH connection. Both ends may end theirs.
type Stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	CloseWrite() error
	Close() error
}

// Loopback connects to a port of the guest's loopback, whichever of its addresses
// is listened on. When ctx ends first, the stream is closed once it is there.
func (c *Client) Loopback(ctx context.Context, port int) (Stream, error) {
	payload := ssh.Marshal(struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}{"localhost", uint32(port), "127.0.0.1", 0})
	type result struct {
		channel ssh.Channel
		err     error
	}
	opened := make(chan result)
	go func() { // ends with the answer, or with the connection
		channel, requests, err := c.conn.OpenChannel("direct-tcpip", payload)
		if err == nil {
			go ssh.DiscardRequests(requests) // ends with the channel
		}
		select {
		case opened <- result{channel, err}:
		case <-ctx.Done():
			if err == nil {
				_ = channel.Close()
			}
		}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("connect to port %d of the sandbox: nothing listens there", port)
		}
		return r.channel, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("connect to port %d of the sandbox: %w", port, ctx.Err())
	}
}
