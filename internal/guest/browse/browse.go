//go:build linux

// Package browse hands addresses that programs want opened to the host: there is
// no browser in a sandbox. It is the agent's end of a socket, and the program
// that is found as xdg-open and as $BROWSER.
//
// Inputs are addresses; the output is a message to the host for each, and its
// answer. Nothing is kept.
package browse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

const (
	maxWaiting  = 4                // addresses at one time
	requestTime = 5 * time.Second  // for the line of a program
	answerTime  = 15 * time.Second // for the host's word
)

// Names are what the program is called by those who look for a browser.
func Names() []string {
	return []string{"xdg-open", "sensible-browser", "x-www-browser", "www-browser"}
}

// Desk takes addresses and waits for the host's answers.
type Desk struct {
	// Tell tells the host.
	Tell func(wire.Message)

	mu      sync.Mutex
	last    int64
	waiting map[int64]chan string
}

// Listen makes the socket, which everybody in the guest may use.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for addresses: %w", err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err == nil {
		err = os.Chmod(path, 0o666)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for addresses: %w", err)
	}
	return listener, nil
}

// Serve takes addresses until ctx ends.
func (d *Desk) Serve(ctx context.Context, listener net.Listener) {
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // ctx has ended
		}
		group.Go(func() {
			defer conn.Close()
			d.serve(ctx, conn)
		})
	}
}

func (d *Desk) serve(ctx context.Context, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(requestTime))
	line, err := bufio.NewReaderSize(conn, wire.MaxAddress+2).ReadSlice('\n')
	if err != nil {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(answerTime + requestTime))
	_, _ = io.WriteString(conn, d.open(ctx, strings.TrimSuffix(string(line), "\n"))+"\n")
}

// open asks the host to show an address, and says why it does not.
func (d *Desk) open(ctx context.Context, address string) string {
	if err := wire.CheckAddress(address); err != nil {
		return err.Error()
	}
	number, answer := d.begin()
	if answer == nil {
		return "too many addresses are waiting"
	}
	defer d.end(number)
	d.Tell(wire.Message{Type: wire.OpenAddress, Text: address, Bytes: number})
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	select {
	case text := <-answer:
		return text
	case <-timer.C:
	case <-ctx.Done():
	}
	return "the host does not answer"
}

func (d *Desk) begin() (int64, chan string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) >= maxWaiting {
		return 0, nil
	}
	if d.waiting == nil {
		d.waiting = map[int64]chan string{}
	}
	d.last++
	answer := make(chan string, 1)
	d.waiting[d.last] = answer
	return d.last, answer
}

func (d *Desk) end(number int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, number)
}

// Answered takes the host's answer.
func (d *Desk) Answered(m wire.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answer, ok := d.waiting[m.Bytes]; ok {
		select {
		case answer <- strings.ReplaceAll(m.Text, "\n", " "):
		default: // it was answered already
		}
	}
}

// Open is the program: it hands the first argument that is no option over, and
// fails where nobody is shown it, so that its caller shows it by itself.
func Open(args []string, socket string) error {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		if err := wire.CheckAddress(arg); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		return ask(arg, socket)
	}
	return errors.New("open: give an http or https address")
}

func ask(address, socket string) error {
	conn, err := net.DialTimeout("unix", socket, requestTime)
	if err != nil {
		return fmt.Errorf("open %s: %w", address, err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime + 2*requestTime))
	if _, err := io.WriteString(conn, address+"\n"); err != nil {
		return fmt.Errorf("open %s: %w", address, err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if answer = strings.TrimSpace(answer); err == nil && answer != "" {
		err = errors.New(answer)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", address, err)
	}
	return nil
}

// Link puts the program into dir under its names, where there is no other.
func Link(dir, agent string) error {
	for _, name := range Names() {
		if err := os.Symlink(agent, filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}
