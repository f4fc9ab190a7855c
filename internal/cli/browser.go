package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/ui"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// callbackTime is how long a login's answer is carried to the sandbox.
	callbackTime = 10 * time.Minute
	// maxCallbacks bounds the connections of one login at one time.
	maxCallbacks = 16
)

// browsing shows the addresses that a sandbox wants opened, as long as a program
// runs in front of the user.
type browsing struct {
	app   *App
	conn  session
	aside *ui.Aside // nil without a terminal: addresses are shown only
	size  chan<- wire.Size
	ask   bool // to open them; else they are shown

	wanted    chan string
	unseen    []string        // that the program's end took from the screen
	ctx       context.Context //nolint:containedctx // of the one session this value lives for
	group     sync.WaitGroup
	forwarded map[int]bool
}

// browse lets streams show addresses, on the terminal of aside if there is one.
// Whoever runs the program calls stop after it, and says what nobody has seen.
func (a *App) browse(ctx context.Context, conn session, streams *supervise.Streams, aside *ui.Aside) (stop func() (unseen []string)) {
	b := &browsing{app: a, conn: conn, aside: aside, wanted: make(chan string, 1), forwarded: map[int]bool{}}
	if c, err := a.localConfig(); err == nil {
		v, _ := c.Lookup("browser", "")
		b.ask = v.Text == "ask"
	}
	ctx, cancel := context.WithCancel(ctx)
	b.ctx = ctx
	if aside != nil {
		streams.Resize, b.size = b.joinSizes(streams.Resize)
	}
	streams.Opening = func(address string) {
		select {
		case b.wanted <- address:
		default: // one is being asked about, and one waits
		}
	}
	b.group.Go(b.run)
	return func() []string {
		cancel()
		b.group.Wait()
		select {
		case address := <-b.wanted:
			return append(b.unseen, address)
		default:
			return b.unseen
		}
	}
}

func (a *App) sayAddresses(all []string) {
	for _, address := range all {
		a.Streams.Say("The sandbox wants this opened in a browser: %s", address)
	}
}

// joinSizes lets b have a program draw its screen anew.
func (b *browsing) joinSizes(sizes <-chan wire.Size) (<-chan wire.Size, chan<- wire.Size) {
	own, joined := make(chan wire.Size, 2), make(chan wire.Size)
	b.group.Go(func() {
		for {
			var size wire.Size
			select {
			case size = <-sizes:
			case size = <-own:
			case <-b.ctx.Done():
				return
			}
			select {
			case joined <- size:
			case <-b.ctx.Done():
				return
			}
		}
	})
	return joined, own
}

func (b *browsing) run() {
	for {
		select {
		case address := <-b.wanted:
			b.handle(address)
		case <-b.ctx.Done():
			return
		}
	}
}

// handle shows one address, asks, forwards the port of its answer, and opens it.
func (b *browsing) handle(address string) {
	port := wire.Callback(address)
	if b.aside == nil {
		b.app.sayAddresses([]string{address})
		return
	}
	text, question := "The sandbox wants this opened in a browser:\n"+address, "Open it?"
	if port != 0 {
		text += fmt.Sprintf("\nThe answer comes to port %d here and would be carried into the sandbox.", port)
	}
	if !b.ask {
		question = "Carry it?"
	}
	if !b.ask && port == 0 {
		b.aside.Say(text)
		return
	}
	yes := b.aside.Confirm(text, question, b.ctx.Done())
	b.redraw()
	if !yes {
		if b.ctx.Err() != nil { // nobody has answered
			b.unseen = append(b.unseen, address)
		}
		return
	}
	err := b.forward(port)
	if err == nil && b.ask {
		err = b.app.openBrowser(b.ctx, address)
	}
	if err != nil {
		b.aside.Say(fmt.Sprintf("%v\n%s", err, address))
	}
}

// redraw tells the program another size and then its own again.
func (b *browsing) redraw() {
	size := b.app.Streams.Size()
	less := size
	less.Rows = max(less.Rows, 2) - 1
	for _, s := range []wire.Size{less, size} {
		select {
		case b.size <- s:
		case <-b.ctx.Done():
		}
	}
}

// forward carries connections to a port of this computer's loopback to the
// sandbox's, for as long as one login takes.
func (b *browsing) forward(port int) error {
	if port == 0 || b.forwarded[port] {
		return nil
	}
	var config net.ListenConfig
	listener, err := config.Listen(b.ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return fault.New(fault.Host, "", "the login's answer cannot reach the sandbox: port %d is taken here", port)
	}
	listeners := []net.Listener{listener}
	if six, err := config.Listen(b.ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(port))); err == nil {
		listeners = append(listeners, six) // browsers take either for localhost
	}
	b.forwarded[port] = true
	ctx, cancel := context.WithTimeout(b.ctx, callbackTime)
	slots := make(chan struct{}, maxCallbacks)
	b.group.Go(func() {
		<-ctx.Done()
		cancel()
		for _, l := range listeners {
			_ = l.Close()
		}
	})
	for _, l := range listeners {
		b.group.Go(func() {
			admit(l, slots, &b.group, func(conn net.Conn) { b.carry(ctx, conn.(*net.TCPConn), port) })
		})
	}
	return nil
}

// carry joins one connection to the sandbox's port.
func (b *browsing) carry(ctx context.Context, conn *net.TCPConn, port int) {
	stream, err := b.conn.Loopback(ctx, port)
	if err != nil {
		return // the browser says that nobody answers
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = conn.Close()
		_ = stream.Close()
	})
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(stream, conn)
		if half, ok := stream.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(conn, stream)
	_ = conn.Close()
	up.Wait()
}

// openBrowser opens an address that CheckAddress let pass, in the user's browser.
func (a *App) openBrowser(ctx context.Context, address string) error {
	if err := wire.CheckAddress(address); err != nil {
		return err
	}
	c, err := a.Config()
	if err != nil {
		return err
	}
	choices := []string{"xdg-open"}
	if a.Host().OS == "darwin" {
		choices = []string{"open"}
	}
	if own, _, _ := strings.Cut(c.Getenv("BROWSER"), ":"); own != "" {
		choices = []string{strings.TrimSpace(strings.ReplaceAll(own, "%s", ""))}
	}
	cmd, err := a.runner().Chosen(context.WithoutCancel(ctx), choices[0], address)
	if err != nil {
		return errors.Join(fault.New(fault.Host, "Open it by hand.", "no browser was found here (%s)", choices[0]))
	}
	process.Detach(cmd)
	if err := cmd.Start(); err != nil {
		return fault.New(fault.Host, "Open it by hand.", "start %s: %w", choices[0], err)
	}
	go func() { _ = cmd.Wait() }() // owned by the process: it only reaps a browser that ends before us
	return nil
}
