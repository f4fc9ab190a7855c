package sshx

import (
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"
)

const (
	agentRequest = "auth-agent-req@openssh.com"
	agentChannel = "auth-agent@openssh.com"
	// maxAgentUses bounds the connections to the user's SSH agent at one time.
	maxAgentUses = 16
)

// agents are the ways to the user's SSH agent, of which the last one counts.
type agents struct {
	mu    sync.Mutex
	dials []*func() (net.Conn, error)
	uses  int
}

// ForwardAgent lets the guest reach an SSH agent by dial until end is called.
// Otherwise it reaches none.
func (c *Client) ForwardAgent(dial func() (net.Conn, error)) (end func()) {
	c.agents.mu.Lock()
	defer c.agents.mu.Unlock()
	c.agents.dials = append(c.agents.dials, &dial)
	return func() {
		c.agents.mu.Lock()
		defer c.agents.mu.Unlock()
		for i, d := range c.agents.dials {
			if d == &dial {
				c.agents.dials = append(c.agents.dials[:i:i], c.agents.dials[i+1:]...)
				return
			}
		}
	}
}

// take gives the way to the agent that counts, unless too many use it.
func (a *agents) take() (dial func() (net.Conn, error), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.dials) == 0 || a.uses >= maxAgentUses {
		return nil, false
	}
	a.uses++
	return *a.dials[len(a.dials)-1], true
}

func (a *agents) giveBack() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.uses--
}

// reachAgent serves one channel of the guest's to the user's agent.
func (c *Client) reachAgent(opening ssh.NewChannel) {
	dial, ok := c.agents.take()
	if !ok {
		_ = opening.Reject(ssh.Prohibited, "no SSH agent is forwarded")
		return
	}
	defer c.agents.giveBack()
	conn, err := dial()
	if err != nil {
		_ = opening.Reject(ssh.ConnectionFailed, "the SSH agent does not answer")
		return
	}
	defer conn.Close()
	channel, requests, err := opening.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	var down sync.WaitGroup
	down.Go(func() { ssh.DiscardRequests(requests) })
	down.Go(func() {
		_, _ = io.Copy(conn, channel)
		_ = conn.Close()
	})
	_, _ = io.Copy(channel, conn)
	_ = channel.Close()
	down.Wait()
}
