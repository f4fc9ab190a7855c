//go:build linux

package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
)

// The names that OpenSSH gives to the forwarding of an agent: the request of a
// client that has one, and the channels to it.
const (
	agentRequest = "auth-agent-req@openssh.com"
	agentChannel = "auth-agent@openssh.com"
)

// maxAgentUses bounds the connections to the client's SSH agent at one time.
const maxAgentUses = 16

// agentSocket is where a program finds the client's SSH agent.
type agentSocket struct {
	dir      string
	listener net.Listener
}

// listenAgent makes a socket for the user that leads to the client's SSH agent. A
// kept session has it too, as long as its client's connection stands.
func (s *session) listenAgent(user string) error {
	account, err := s.config.Account(user)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(s.config.Run, "ssh-agent-") // mode 0700
	if err != nil {
		return fmt.Errorf("forward the SSH agent: %w", err)
	}
	path := filepath.Join(dir, "socket")
	var config net.ListenConfig
	listener, err := config.Listen(context.Background(), "unix", path)
	if err == nil && os.Getuid() == 0 {
		err = errors.Join(os.Chown(dir, int(account.UID), int(account.GID)), os.Chown(path, int(account.UID), int(account.GID)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("forward the SSH agent: %w", err), os.RemoveAll(dir))
	}
	s.agent = &agentSocket{dir, listener}
	s.env["SSH_AUTH_SOCK"] = path
	return nil
}

// serveAgent carries connections to the agent until the program or the client's
// connection has ended.
func (s *session) serveAgent() {
	socket, ended := s.agent, s.program.process.Done()
	s.group.Go(func() {
		select {
		case <-ended:
		case <-s.gone:
		}
		socket.close()
	})
	s.group.Go(func() {
		slots := make(chan struct{}, maxAgentUses)
		for {
			conn, err := socket.listener.Accept()
			if err != nil {
				return
			}
			slots <- struct{}{}
			s.group.Go(func() {
				defer func() { <-slots }()
				s.reachAgent(conn)
			})
		}
	})
}

// close takes the socket away. The nil socket is none.
func (a *agentSocket) close() {
	if a == nil {
		return
	}
	_ = a.listener.Close()
	_ = os.RemoveAll(a.dir)
}

// reachAgent joins one connection to the client's agent.
func (c *connection) reachAgent(conn net.Conn) {
	defer conn.Close()
	channel, requests, err := c.conn.OpenChannel(agentChannel, nil)
	if err != nil {
		return // the client has none any more
	}
	defer channel.Close()
	var down sync.WaitGroup
	down.Go(func() { ssh.DiscardRequests(requests) })
	down.Go(func() {
		_, _ = io.Copy(onlyWriter{conn}, onlyReader{channel})
		_ = conn.Close()
	})
	_, _ = io.Copy(onlyWriter{channel}, onlyReader{conn})
	_ = channel.Close()
	down.Wait()
}
