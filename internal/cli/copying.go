package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/treecopy"
	"github.com/smolvm/smolvm/internal/wire"
)

// copying is one source of a `cp` on its way.
type copying struct {
	app      *App
	conn     session
	user     string
	from, to guestPath
}

func (c *copying) run(ctx context.Context) (treecopy.Summary, error) {
	report, done := c.progress()
	defer done()
	if c.from.Name != "" {
		return c.fetch(ctx, report)
	}
	return c.bring(ctx, report)
}

// fetch takes files out of the sandbox. Where they go is found out first: an
// impossible place is no reason to read anything.
func (c *copying) fetch(ctx context.Context, report treecopy.Progress) (treecopy.Summary, error) {
	var place treecopy.Place
	var err error
	if c.to.Path != "-" {
		if place, err = treecopy.Find(c.to.Path, base(c.from.Path)); err != nil {
			return treecopy.Summary{}, err
		}
	}
	stream, err := c.conn.Copy(ctx, wire.Copy{Op: wire.CopySend, User: c.user, Path: c.from.Path})
	if err != nil {
		return treecopy.Summary{}, err
	}
	defer stream.Close()
	if c.to.Path == "-" {
		return treecopy.ReceiveStream(stream, c.app.Streams.Out, report)
	}
	return treecopy.Receive(stream, place, treecopy.Options{FoldCase: runtime.GOOS == "darwin", Progress: report})
}

// bring puts files into the sandbox, which answers when they are there, or when
// it cannot take any more: then sending ends, too.
func (c *copying) bring(ctx context.Context, report treecopy.Progress) (treecopy.Summary, error) {
	name := base(c.from.Path)
	if c.from.Path == "-" {
		name = ""
	}
	stream, err := c.conn.Copy(ctx, wire.Copy{Op: wire.CopyReceive, User: c.user, Path: c.to.Path, Name: name})
	if err != nil {
		return treecopy.Summary{}, err
	}
	defer stream.Close()
	type result struct {
		sum treecopy.Summary
		err error
	}
	sent := make(chan result, 1)
	go func() { // ends with the stream; only a read of standard input may hold it, until the process ends
		sum, err := c.send(stream, report)
		sent <- result{sum, err}
	}()
	sum, err := treecopy.Result(stream)
	_ = stream.Close()
	var theirs *treecopy.RemoteError
	if errors.As(err, &theirs) && c.from.Path == "-" {
		return sum, err // standard input may never end
	}
	if mine := <-sent; mine.err != nil && !isLost(mine.err) {
		return sum, mine.err // the sandbox only repeats it
	}
	return sum, err
}

// isLost says that sending failed because the other end is gone, whose own
// answer says why.
func isLost(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

func (c *copying) send(stream io.Writer, report treecopy.Progress) (treecopy.Summary, error) {
	if c.from.Path == "-" {
		return treecopy.SendStream(stream, c.app.Streams.In, report)
	}
	return treecopy.Send(stream, c.from.Path, report)
}

// reportAfter is how long a copy takes before it shows how far it is.
const reportAfter = time.Second

// progress reports a copy that takes long.
func (c *copying) progress() (report treecopy.Progress, done func()) {
	begun, shown, bytes := c.app.Now(), time.Time{}, int64(0)
	var mu sync.Mutex // a sender that is stuck in reading may outlive the copy
	object := fmt.Sprint(c.from)
	emit := func(kind event.Kind, now time.Time, total int64) {
		c.app.Progress().Emit(event.Event{
			Time: now, Kind: kind, Stage: event.Copy, Object: object, Bytes: bytes, Total: total, Elapsed: now.Sub(begun),
		})
	}
	report = func(n, total int64) {
		mu.Lock()
		defer mu.Unlock()
		bytes = n
		now := c.app.Now()
		if now.Sub(begun) < reportAfter || now.Sub(shown) < reportAfter/10 {
			return
		}
		if shown.IsZero() {
			emit(event.Start, now, total)
		}
		shown = now
		emit(event.Progress, now, total)
	}
	return report, func() {
		mu.Lock()
		defer mu.Unlock()
		if !shown.IsZero() {
			emit(event.Done, c.app.Now(), bytes)
		}
	}
}
