package cli

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// doorTime is how long a browser may take to come: one that is just started on a
	// slow computer.
	doorTime = time.Minute
	// knockTime is how long a connection may take to say what it wants.
	knockTime = 10 * time.Second
	// maxAsk bounds a request, in bytes; maxVisitors the connections at one time.
	maxAsk      = 16 << 10
	maxVisitors = 16
)

// door is a port of this computer's loopback that sends the first browser that knows
// its secret path on to an address.
type door struct {
	address  string // that opens it
	to, path string
	listener net.Listener
	group    sync.WaitGroup
	passed   chan struct{}
	once     sync.Once
}

func openDoor(ctx context.Context, rand io.Reader, to string) (*door, error) {
	secret := make([]byte, 16)
	if _, err := io.ReadFull(rand, secret); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{to: to, path: "/" + hex.EncodeToString(secret), listener: listener, passed: make(chan struct{})}
	d.address = "http://" + listener.Addr().String() + d.path
	d.group.Go(d.accept)
	return d, nil
}

func (d *door) accept() {
	admit(d.listener, make(chan struct{}, maxVisitors), &d.group, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(knockTime))
		d.answer(conn)
	})
}

// admit serves the connections to a listener, each in a goroutine of group, until the
// listener is closed. One for which there is no slot is closed at once.
func admit(l net.Listener, slots chan struct{}, group *sync.WaitGroup, serve func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			serve(conn)
		})
	}
}

// answer sends a browser on, the first one that asks for the path, and no other.
func (d *door) answer(conn net.Conn) {
	in := bufio.NewReader(io.LimitReader(conn, maxAsk))
	line, err := in.ReadString('\n')
	if err != nil {
		return
	}
	for header := line; strings.TrimSpace(header) != ""; { // to the end, or closing resets the answer
		if header, err = in.ReadString('\n'); err != nil {
			return
		}
	}
	const end = "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	text := "HTTP/1.1 404 Not Found\r\n" + end
	first := false
	if words := strings.Fields(line); len(words) == 3 && words[0] == "GET" && words[1] == d.path {
		d.once.Do(func() { first = true })
	}
	if first {
		text = "HTTP/1.1 303 See Other\r\nLocation: " + d.to + "\r\n" + end
	}
	_, _ = io.WriteString(conn, text)
	if first {
		close(d.passed)
	}
}

// wait waits for the browser.
func (d *door) wait(ctx context.Context) error {
	late := time.NewTimer(doorTime)
	defer late.Stop()
	select {
	case <-d.passed:
		return nil
	case <-late.C:
		return errNobodyCame
	case <-ctx.Done():
		return fmt.Errorf("wait for the browser: %w", ctx.Err())
	}
}

// close closes the door when those who are in it have their answer.
func (d *door) close() {
	_ = d.listener.Close()
	d.group.Wait()
}
