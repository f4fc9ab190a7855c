//go:build linux

package sshd

import (
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/screen"
	"github.com/smolvm/smolvm/internal/wire"
)

// When output that was not drawn yet is drawn: after that much silence. A program
// that nobody watches may wait for its terminal's answer; one that is watched has
// its answer from the client's terminal.
const (
	silenceUnwatched = 50 * time.Millisecond
	silenceWatched   = time.Second
)

// kept is a session that outlives its clients: a program on a terminal, and the
// screen it has made.
type kept struct {
	keeper  *keeper
	name    string
	command string
	started time.Time
	process *reap.Process
	pty     *pty
	input   *keyboard
	watched atomic.Int32

	mu      sync.Mutex
	change  sync.Cond // of anything below
	screen  *screen.Screen
	size    wire.Size
	viewers []*viewer
	used    time.Time
	status  *reap.Status // the program has ended
	silent  bool         // and all of its output was taken
	last    []byte       // what the screen showed then, as text; not nil once it is over
	title   string
	told    string // of its titles
}

func newKept(k *keeper, name string, p *running, terminal *pty) *kept {
	s := &kept{
		keeper: k, name: name, command: commandLine(p.argv), started: k.now(), used: k.now(),
		process: p.process, pty: terminal, input: newKeyboard(), size: screen.Clamp(terminal.size),
	}
	s.change.L = &s.mu
	s.screen = screen.New(s.size, func(p []byte) {
		if s.watched.Load() == 0 {
			s.input.offer(p)
		}
	})
	return s
}

// run is the session's life.
func (k *kept) run() {
	var parts sync.WaitGroup
	parts.Go(k.read)
	parts.Go(func() { k.input.typeOn(k.pty.master) })
	status := k.process.Wait()
	k.mu.Lock()
	k.status = &status
	_ = k.pty.master.SetReadDeadline(time.Now()) // wakes read
	k.mu.Unlock()
	k.input.close()
	k.finish(&parts)
}

// finish waits for the last output and leaves what a later client shall see.
func (k *kept) finish(parts *sync.WaitGroup) {
	k.mu.Lock()
	for !k.silent {
		k.change.Wait()
	}
	k.mu.Unlock()
	k.pty.close() // ends a write to it, too
	parts.Wait()
	k.mu.Lock()
	k.last, k.title = k.screen.Last(), k.screen.Title()
	k.screen.Close()
	unseen := len(k.viewers) == 0
	k.change.Broadcast()
	k.mu.Unlock()
	if unseen {
		k.keeper.bury()
	}
	k.keeper.changed()
}

// read takes the program's output until it ends, as fast as somebody takes it, or
// nobody is there.
func (k *kept) read() {
	buffer := make([]byte, 32<<10)
	for {
		ended := k.await()
		n, err := k.pty.master.Read(buffer)
		if n > 0 {
			k.show(buffer[:n])
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && !ended:
			k.settle()
		default:
			k.mu.Lock()
			k.silent = true
			k.change.Broadcast()
			k.mu.Unlock()
			return
		}
	}
}

// await sets how long the next read waits; ended says that silence is the end.
func (k *kept) await() (ended bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var deadline time.Time
	switch {
	case k.status != nil:
		ended, deadline = true, time.Now().Add(drainTime)
	case !k.screen.Waiting():
	case len(k.viewers) == 0:
		deadline = time.Now().Add(silenceUnwatched)
	default:
		deadline = time.Now().Add(silenceWatched)
	}
	_ = k.pty.master.SetReadDeadline(deadline)
	return ended
}

// settle draws, and tells of another title, which is known only then.
func (k *kept) settle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.screen.Draw()
	if title := k.screen.Title(); title != k.told {
		k.told = title
		k.keeper.changed()
	}
}

// show gives output to the screen and to all who watch.
func (k *kept) show(p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !k.room() {
		k.change.Wait()
	}
	out := k.screen.Write(p)
	for _, v := range k.viewers {
		v.take(out)
	}
	if len(k.viewers) > 0 {
		k.change.Broadcast()
	}
}

// room reports whether one of those who watch can take more, or nobody watches.
func (k *kept) room() bool {
	return len(k.viewers) == 0 || slices.ContainsFunc(k.viewers, (*viewer).room)
}

// join adds a client. One that comes later is shown the screen first, and the
// program is told to draw its own again.
func (k *kept) join(v *viewer) {
	k.mu.Lock()
	k.viewers = append(k.viewers, v)
	k.watched.Store(int32(len(k.viewers)))
	k.used = k.keeper.now()
	if changed := k.fit(); !changed && !v.own && k.status == nil {
		if group, err := k.pty.foreground(); err == nil {
			_ = syscall.Kill(-group, syscall.SIGWINCH)
		}
	}
	k.mu.Unlock()
	k.keeper.changed()
}

// leave removes a client. What ended has been seen then.
func (k *kept) leave(v *viewer) {
	k.mu.Lock()
	at := slices.Index(k.viewers, v)
	if at < 0 {
		k.mu.Unlock()
		return
	}
	k.viewers = slices.Delete(k.viewers, at, at+1)
	k.watched.Store(int32(len(k.viewers)))
	k.used = k.keeper.now()
	v.gone = true
	k.fit()
	k.change.Broadcast()
	over, seen := k.last != nil, v.finished
	k.mu.Unlock()
	if seen {
		k.keeper.forget(k)
	} else if over {
		k.keeper.bury()
	}
	k.keeper.changed()
}

// fit makes the terminal as large as the smallest of those who watch, so that
// nobody loses text. Those that are larger are drawn; the others get the program's
// own bytes.
func (k *kept) fit() (changed bool) {
	if len(k.viewers) == 0 || k.last != nil {
		return false
	}
	size := k.viewers[0].size
	for _, v := range k.viewers[1:] {
		size.Columns, size.Rows = min(size.Columns, v.size.Columns), min(size.Rows, v.size.Rows)
	}
	if size = screen.Clamp(size); size != k.size {
		k.size, changed = size, true
		k.screen.Resize(size)
		_ = k.pty.resize(uint32(size.Columns), uint32(size.Rows), 0, 0)
	}
	for _, v := range k.viewers {
		drawn := v.size != size
		v.redraw = v.redraw || drawn != v.drawn || changed && drawn
		v.drawn = drawn
	}
	if changed {
		k.change.Broadcast()
	}
	return changed
}

// signal sends a signal to what runs in the terminal's foreground.
func (k *kept) signal(sig syscall.Signal) bool {
	if group, err := k.pty.foreground(); err == nil {
		return syscall.Kill(-group, sig) == nil
	}
	return k.process.SignalGroup(sig) == nil
}

func (k *kept) hasEnded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status != nil
}

func (k *kept) lastUse() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.used
}

func (k *kept) describe() wire.KeptSession {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := wire.KeptSession{
		Name: k.name, Command: k.command, Title: k.title,
		Started: k.started.UnixNano(), Used: k.used.UnixNano(), Clients: len(k.viewers),
	}
	if d.Title == "" && k.last == nil {
		d.Title = k.screen.Title()
	}
	if k.status != nil {
		d.Status = exitCode(*k.status)
	}
	return d
}
