//go:build linux

// Package sshd serves SSH connections inside the sandbox: programs with or
// without a terminal, SFTP and TCP forwarding.
//
// Connections come from the guest link, never from the network. Only public
// keys of the seed are accepted, the same for every user. When a connection ends
// its programs are hung up, except those of sessions that are kept.
package sshd

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/setup"
)

// Bounds and times.
const (
	maxAuthTries = 6
	// handshakeTime bounds what comes before authentication; an emulated guest
	// on a busy host needs seconds.
	handshakeTime = time.Minute
	// hangupGrace is what programs get between SIGHUP and SIGKILL when their
	// client has vanished.
	hangupGrace = 5 * time.Second
	// drainTime is how long output of a program's left-over children is waited
	// for after it has ended; each byte starts it anew.
	drainTime = 200 * time.Millisecond
)

// Config is all that a Server needs.
type Config struct {
	HostKey    ssh.Signer
	Authorized []ssh.PublicKey
	Users      []string // names that may log in
	Account    func(name string) (setup.Account, error)
	// Environment of every session, under the client's own.
	Environment map[string]string
	// Credentials are the variables of the agent's sessions, over Environment.
	Credentials func() map[string]string
	// Workspace is where programs start; the home where it does not exist.
	Workspace string
	// Start starts a program; the reaper's.
	Start func(path string, argv []string, attr *syscall.ProcAttr) (*reap.Process, error)
	// SFTP is the path of the program that serves SFTP on its standard input and
	// output when started under the name SFTPName.
	SFTP string
	// Run is a folder in memory for sockets.
	Run  string
	Now  func() time.Time
	Logf func(format string, args ...any)
}

// Server serves SSH connections.
type Server struct {
	config Config
	keeper *keeper

	mu  sync.Mutex
	ssh *ssh.ServerConfig // of connections from now on
}

// New checks the configuration.
func New(config Config) (*Server, error) {
	s := &Server{config: config, keeper: newKeeper(config.Now)}
	if err := s.Rekey(config.HostKey, config.Authorized); err != nil {
		return nil, err
	}
	return s, nil
}

// Rekey gives connections from now on another host key, and lets in others. Those that
// are open stay as they are.
func (s *Server) Rekey(host ssh.Signer, authorized []ssh.PublicKey) error {
	if host == nil {
		return errors.New("ssh server: there is no host key")
	}
	if len(authorized) == 0 {
		return errors.New("ssh server: there is no authorized key")
	}
	config := &ssh.ServerConfig{
		Config: ssh.Config{
			// An emulated processor has no fast AES; chacha20 is twice as fast there.
			Ciphers: []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM, ssh.CipherAES128GCM, ssh.CipherAES256CTR},
			// The link is private to the host; the cheap exchange comes first.
			KeyExchanges: []string{ssh.KeyExchangeCurve25519, ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeECDHP256},
		},
		MaxAuthTries:  maxAuthTries,
		ServerVersion: "SSH-2.0-smolvm-guest",
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, s.authorize(conn, key, authorized)
		},
	}
	config.AddHostKey(host)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ssh = config
	return nil
}

func (s *Server) authorize(conn ssh.ConnMetadata, key ssh.PublicKey, authorized []ssh.PublicKey) error {
	if !slices.Contains(s.config.Users, conn.User()) {
		return fmt.Errorf("user %q may not log in", conn.User())
	}
	offered := key.Marshal()
	for _, known := range authorized {
		if subtle.ConstantTimeCompare(known.Marshal(), offered) == 1 {
			return nil
		}
	}
	return errors.New("key is not authorized")
}

// Serve serves one connection until it ends or ctx does, and returns when all
// its programs and forwards are gone. Kept sessions go on.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(handshakeTime))
	s.mu.Lock()
	config := s.ssh
	s.mu.Unlock()
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return fmt.Errorf("ssh handshake: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	c := &connection{Server: s, conn: server, listeners: map[string]net.Listener{}, gone: make(chan struct{})}
	c.serve(ctx, channels, requests)
	return nil
}

// connection is one client.
type connection struct {
	*Server
	conn  *ssh.ServerConn
	gone  chan struct{} // closed when the client's connection has ended
	group sync.WaitGroup

	mu        sync.Mutex
	listeners map[string]net.Listener // by the address the client asked for
}

// serve ends when the client has closed the connection.
func (c *connection) serve(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	c.group.Go(func() { c.globalRequests(ctx, requests) })
	for channel := range channels {
		switch channel.ChannelType() {
		case "session":
			c.group.Go(func() { c.session(channel) })
		case "direct-tcpip":
			c.group.Go(func() { c.dialForward(ctx, channel) })
		default:
			_ = channel.Reject(ssh.UnknownChannelType, "not served here")
		}
	}
	cancel()
	close(c.gone)
	c.closeListeners()
	c.group.Wait()
	c.conn.Close()
}

func (c *connection) globalRequests(ctx context.Context, requests <-chan *ssh.Request) {
	for request := range requests {
		var ok bool
		var answer []byte
		switch request.Type {
		case "tcpip-forward":
			ok, answer = c.listen(ctx, request.Payload)
		case "cancel-tcpip-forward":
			ok = c.unlisten(request.Payload)
		case "keepalive@openssh.com":
			ok = true
		}
		if request.WantReply {
			_ = request.Reply(ok, answer)
		}
	}
}
