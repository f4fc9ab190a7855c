//go:build linux

package sshd

import (
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/smolvm/smolvm/internal/guest/reap"
	"github.com/smolvm/smolvm/internal/guest/screen"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// maxQueue is how much output waits for a client. One that is further behind is
	// shown the screen when it can take it, unless it is the only one: then the
	// program waits for it.
	maxQueue = 64 << 10
	// drawPause is the least time between two drawings for a client of another size.
	drawPause = 50 * time.Millisecond
)

// viewer is a client of a kept session. Its fields belong to the session's lock.
type viewer struct {
	session *kept
	channel ssh.Channel
	size    wire.Size
	own     bool // the session was made for it: there is nothing to be shown
	left    chan struct{}
	leaving sync.Once

	queue    []byte
	drawn    bool // its size is not the session's: it is drawn line by line
	stale    bool // and something has changed
	redraw   bool // the whole screen is due
	shown    bool // the screen was shown once
	view     screen.View
	gone     bool
	finished bool // it has been shown the end
}

func newViewer(k *kept, channel ssh.Channel, size wire.Size, own bool) *viewer {
	return &viewer{
		session: k, channel: channel, size: screenSize(size), own: own, redraw: !own, shown: own, left: make(chan struct{}),
	}
}

// screenSize is the size of a client's terminal, where it has one.
func screenSize(size wire.Size) wire.Size {
	if size.Columns == 0 || size.Rows == 0 {
		return screen.Clamp(wire.Size{})
	}
	return size
}

// room reports whether the program may go on for this client.
func (v *viewer) room() bool { return v.drawn || !v.redraw && len(v.queue) < maxQueue }

// take queues output. A client that has no room while another had is behind.
func (v *viewer) take(p []byte) {
	switch {
	case v.drawn:
		v.stale = true
	case v.redraw: // all of it will be on the screen
	case len(v.queue) >= maxQueue:
		v.redraw = true
	default:
		v.queue = append(v.queue, p...)
	}
}

// next waits for what the client gets next: nil at the end. buffer is reused.
func (v *viewer) next(buffer []byte) []byte {
	k := v.session
	k.mu.Lock()
	defer k.mu.Unlock()
	for {
		switch {
		case v.gone:
			return nil
		case len(v.queue) > 0:
			next := v.queue
			v.queue = buffer[:0]
			k.change.Broadcast() // there is room
			return next
		case k.last != nil && (v.redraw || v.stale):
			v.redraw, v.stale = false, false
			return k.last
		case v.redraw:
			return v.whole()
		case v.stale:
			v.stale = false
			var out []byte
			out, v.view = k.screen.Changes(v.view)
			return out
		case k.last != nil:
			v.finished = true
			return nil
		}
		k.change.Wait()
	}
}

// whole draws the screen.
func (v *viewer) whole() (out []byte) {
	k, fresh := v.session, 0
	if !v.shown {
		fresh = int(v.size.Rows)
	}
	out, v.view = k.screen.Redraw(fresh)
	v.redraw, v.stale, v.shown = false, false, true
	k.change.Broadcast()
	return out
}

// send writes to the client until it is gone or the program has ended, and tells
// how that ended.
func (v *viewer) send() (status reap.Status, ended bool) {
	var buffer []byte
	for {
		next := v.next(buffer)
		if next == nil {
			break
		}
		if _, err := v.channel.Write(next); err != nil {
			return status, false
		}
		buffer = next
		if v.isDrawn() && !v.pause() {
			return status, false
		}
	}
	k := v.session
	k.mu.Lock()
	defer k.mu.Unlock()
	if !v.finished {
		return status, false
	}
	return *k.status, true
}

func (v *viewer) isDrawn() bool {
	v.session.mu.Lock()
	defer v.session.mu.Unlock()
	return v.drawn && v.session.last == nil
}

// pause lets changes gather; false when the client has left.
func (v *viewer) pause() bool {
	timer := time.NewTimer(drawPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-v.left:
		return false
	}
}

// receive types what the client sends until its input ends.
func (v *viewer) receive() {
	buffer := make([]byte, 32<<10)
	for {
		n, err := v.channel.Read(buffer)
		if n > 0 && v.session.input.put(buffer[:n], v.left) != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// leave ends this client's part; the session goes on.
func (v *viewer) leave() {
	v.leaving.Do(func() { close(v.left) })
	v.session.leave(v)
}

func (v *viewer) resize(size wire.Size) {
	k := v.session
	k.mu.Lock()
	defer k.mu.Unlock()
	v.size = screenSize(size)
	k.fit()
}

// errClosed says that nobody reads the keyboard any more.
var errClosed = errors.New("the program has ended")

// maxTyped is how much input may wait for a program that does not read.
const maxTyped = 64 << 10

// keyboard holds what the clients, or the screen in their absence, have typed.
type keyboard struct {
	chunks chan []byte
	ended  chan struct{}
	ending sync.Once
}

func newKeyboard() *keyboard {
	return &keyboard{chunks: make(chan []byte, maxTyped/(4<<10)), ended: make(chan struct{})}
}

// put waits for room until left or the end. What is put at once stays together.
func (b *keyboard) put(p []byte, left <-chan struct{}) error {
	for len(p) > 0 {
		n := min(len(p), 4<<10)
		chunk := append([]byte{}, p[:n]...)
		select {
		case b.chunks <- chunk:
		case <-left:
			return errClosed
		case <-b.ended:
			return errClosed
		}
		p = p[n:]
	}
	return nil
}

// offer drops what there is no room for.
func (b *keyboard) offer(p []byte) {
	select {
	case b.chunks <- append([]byte{}, p...):
	default:
	}
}

func (b *keyboard) close() { b.ending.Do(func() { close(b.ended) }) }

// typeOn writes to the terminal until the end.
func (b *keyboard) typeOn(terminal io.Writer) {
	for {
		select {
		case chunk := <-b.chunks:
			if _, err := terminal.Write(chunk); err != nil {
				return
			}
		case <-b.ended:
			return
		}
	}
}
