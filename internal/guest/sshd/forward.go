//go:build linux

package sshd

import (
	"context"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// firstFree is the first port that users other than root may listen on.
const firstFree = 1024

// dialForward connects a client's direct-tcpip channel to an address as the
// guest sees it.
func (c *connection) dialForward(ctx context.Context, opening ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}
	if ssh.Unmarshal(opening.ExtraData(), &m) != nil || m.Port > 1<<16-1 {
		_ = opening.Reject(ssh.ConnectionFailed, "bad address")
		return
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(m.Host, m.Port))
	if err != nil {
		_ = opening.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := opening.Accept()
	if err != nil {
		conn.Close()
		return
	}
	c.pipe(ctx, channel, requests, conn.(*net.TCPConn))
}

func address(host string, port uint32) string {
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
}

// pipe copies both ways until both sides have ended theirs, passing half closes
// on. When the client has closed its channel nobody listens to the other side
// any more; when the connection has ended, nobody speaks either.
func (c *connection) pipe(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request, conn *net.TCPConn) {
	defer channel.Close()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c.group.Go(func() {
		ssh.DiscardRequests(requests)
		_ = conn.SetReadDeadline(time.Now())
	})
	done := make(chan struct{})
	c.group.Go(func() {
		defer close(done)
		_, _ = io.Copy(onlyWriter{conn}, onlyReader{channel})
		_ = conn.CloseWrite()
	})
	_, _ = io.Copy(onlyWriter{channel}, onlyReader{conn})
	_ = channel.CloseWrite()
	<-done
}

// forward is the payload of tcpip-forward and of its cancellation.
type forward struct {
	Host string
	Port uint32
}

// listen answers tcpip-forward: connections to the guest's port go to the client.
func (c *connection) listen(ctx context.Context, payload []byte) (ok bool, answer []byte) {
	var m forward
	if ssh.Unmarshal(payload, &m) != nil || m.Port > 1<<16-1 {
		return false, nil
	}
	if m.Port != 0 && m.Port < firstFree && c.conn.User() != "root" {
		return false, nil
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address(bindHost(m.Host), m.Port))
	if err != nil {
		return false, nil
	}
	port := uint32(listener.Addr().(*net.TCPAddr).Port)
	bound := forward{m.Host, port}
	c.mu.Lock()
	c.listeners[address(bound.Host, bound.Port)] = listener
	c.mu.Unlock()
	c.group.Go(func() { c.acceptForward(ctx, listener, bound) })
	if m.Port == 0 {
		answer = ssh.Marshal(struct{ Port uint32 }{port})
	}
	return true, answer
}

// bindHost follows RFC 4254, section 7.1: empty and * mean everywhere.
func bindHost(host string) string {
	switch host {
	case "*":
		return ""
	case "localhost":
		return "127.0.0.1"
	}
	return host
}

func (c *connection) acceptForward(ctx context.Context, listener net.Listener, bound forward) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		c.group.Go(func() { c.offer(ctx, conn.(*net.TCPConn), bound) })
	}
}

// offer opens a channel to the client for one accepted connection.
func (c *connection) offer(ctx context.Context, conn *net.TCPConn, bound forward) {
	from := conn.RemoteAddr().(*net.TCPAddr)
	channel, requests, err := c.conn.OpenChannel("forwarded-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}{bound.Host, bound.Port, from.IP.String(), uint32(from.Port)}))
	if err != nil {
		conn.Close()
		return
	}
	c.pipe(ctx, channel, requests, conn)
}

func (c *connection) unlisten(payload []byte) bool {
	var m forward
	if ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := address(m.Host, m.Port)
	listener, ok := c.listeners[key]
	if ok {
		delete(c.listeners, key)
		listener.Close()
	}
	return ok
}

func (c *connection) closeListeners() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, listener := range c.listeners {
		delete(c.listeners, key)
		listener.Close()
	}
}
