//go:build linux

package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// Times of a watch. An emulated guest takes seconds for an answer while a service starts.
const (
	firstProbe = 250 * time.Millisecond
	mostProbe  = 4 * time.Second
	answerTime = 10 * time.Second
)

// watch says in the log when a service that has a port answers for the first time,
// and opens its gate.
func (k *Keeper) watch(ctx context.Context, s wire.Service, log *log) {
	if s.Port == 0 {
		return
	}
	began := k.config.Now()
	for wait := firstProbe; rest(ctx, wait); wait = min(2*wait, mostProbe) {
		if probe(ctx, s) == nil {
			took := k.config.Now().Sub(began).Round(100 * time.Millisecond)
			log.say("answers on port %d after %v", s.Port, took)
			k.gates[s.Name].open()
			k.config.Logf("service %s answers on port %d after %v", s.Name, s.Port, took)
			return
		}
	}
}

// probe asks once.
func probe(ctx context.Context, s wire.Service) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil || s.Health == "" {
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return ask(conn, address, s.Health)
}

// ask sends one request and judges the first line of the answer: all that is
// needed of HTTP, of which the guest agent has nothing else.
func ask(conn io.ReadWriter, host, path string) error {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 4<<10)).ReadString('\n')
	if err != nil {
		return err
	}
	var major, minor, status int
	if _, err := fmt.Sscanf(line, "HTTP/%d.%d %d", &major, &minor, &status); err != nil {
		return fmt.Errorf("the answer %.80q is not HTTP", line)
	}
	if status < 200 || status >= 400 {
		return fmt.Errorf("%s answers with status %d", path, status)
	}
	return nil
}
