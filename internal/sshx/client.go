package sshx

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/fault"
)

// Config says who connects, and to whom.
type Config struct {
	User      string
	ClientKey string // private key, OpenSSH PEM
	HostKey   string // the one key the guest must show, authorized_keys form
}

// Client is one SSH connection. Sessions on it are independent of each other.
type Client struct {
	conn ssh.Conn
	done chan struct{} // closed when the connection has ended
	err  error         // why; set before done is closed

	agents agents
}

// Connect does the handshake on conn, which it closes on an error and when ctx
// ends first. A guest that shows any other host key is a Trust fault.
func Connect(ctx context.Context, conn net.Conn, c Config) (*Client, error) {
	client, err := connect(ctx, conn, c)
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("connect to the guest's SSH server: %w", err)
	}
	return client, nil
}

func connect(ctx context.Context, conn net.Conn, c Config) (*Client, error) {
	config, err := clientConfig(c)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	inner, channels, requests, err := ssh.NewClientConn(conn, "guest", config)
	if err != nil {
		return nil, err
	}
	if !stop() {
		_ = inner.Close()
		return nil, ctx.Err()
	}
	client := &Client{conn: inner, done: make(chan struct{})}
	go client.serve(channels, requests)
	return client, nil
}

// serve refuses whatever the guest asks for but an SSH agent that is forwarded,
// until the connection ends. Close
// waits for it.
func (c *Client) serve(channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	defer close(c.done)
	go ssh.DiscardRequests(requests) // ends with the connection, before Wait returns or just after
	var reaching sync.WaitGroup
	defer reaching.Wait()
	for channel := range channels {
		if channel.ChannelType() == agentChannel {
			reaching.Go(func() { c.reachAgent(channel) })
			continue
		}
		_ = channel.Reject(ssh.Prohibited, "the host opens channels")
	}
	c.err = c.conn.Wait()
}

// clientConfig asks for the algorithms that cost an emulated guest least:
// chacha20-poly1305 moves 10 MB/s there, AES half of that, and a curve25519
// exchange is far cheaper than the post-quantum hybrid. The stream never leaves
// this computer.
func clientConfig(c Config) (*ssh.ClientConfig, error) {
	signer, err := ssh.ParsePrivateKey([]byte(c.ClientKey))
	if err != nil {
		return nil, fmt.Errorf("parse the client key: %w", err)
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.HostKey))
	if err != nil {
		return nil, fmt.Errorf("parse the host key: %w", err)
	}
	return &ssh.ClientConfig{
		Config: ssh.Config{
			Ciphers:      []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES128GCM},
			KeyExchanges: []string{ssh.KeyExchangeCurve25519},
		},
		User:              c.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyAlgorithms: []string{hostKey.Type()},
		HostKeyCallback:   pinned(hostKey),
		ClientVersion:     "SSH-2.0-smolvm",
	}, nil
}

// pinned accepts exactly one key.
func pinned(want ssh.PublicKey) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, got ssh.PublicKey) error {
		if bytes.Equal(got.Marshal(), want.Marshal()) {
			return nil
		}
		return fault.New(fault.Trust,
			"Something else answers in the sandbox's place. Delete it and start a new one.",
			"the guest showed host key %s, expected %s", ssh.FingerprintSHA256(got), ssh.FingerprintSHA256(want))
	}
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the connection ended; nil before Done.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close ends the connection with all its sessions.
func (c *Client) Close() error {
	_ = c.conn.Close()
	<-c.done
	return nil
}
