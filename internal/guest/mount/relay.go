//go:build linux

// Package mount shows folders and files of the host in the guest: it mounts one
// FUSE file system, passes its messages between the kernel and the port to the
// host, which serves it, and binds its entries to where they belong.
//
// Input is the list of mounts that the host sends; output are mounts of the
// kernel. Nothing is kept: every boot begins anew.
package mount

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of messages.
const (
	maxData = 1 << 20         // of one read or write
	maxIn   = maxData + 8<<10 // of the kernel: the buffer has to be larger than any
	maxOut  = maxData + 4<<10 // of the host
)

// lazyTime is how long messages that nobody waits for may stay in the guest: the
// next request that somebody waits for takes them along.
const lazyTime = 2 * time.Millisecond

// relay passes messages on until either end is gone. What needs no host it
// answers itself.
type relay struct {
	device int // /dev/fuse, not blocking: all that is there goes in one write
	ended  int // an eventfd that wakes up when the relay is to end
	in     io.Reader
	out    io.WriteCloser
	memory *memory

	running sync.WaitGroup
	once    sync.Once

	closing sync.RWMutex // held by who writes to the device besides the two directions
	closed  bool
}

// newRelay takes over the device and the stream, once it is started.
func newRelay(device int, stream *Stream) (*relay, error) {
	ended, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("relay mounts: %w", err)
	}
	return &relay{device: device, ended: ended, in: stream.In, out: stream.Out, memory: newMemory(time.Now)}, nil
}

// start passes messages on until one of the ends is gone. Then the device is closed, and
// programs that use a mount get errors. Not before nobody reads it any more: its number
// may belong to another file the moment that it is closed, the new port for example.
func (r *relay) start() {
	var both sync.WaitGroup
	both.Go(r.up)
	both.Go(r.down)
	r.running.Go(func() {
		both.Wait()
		r.closing.Lock()
		defer r.closing.Unlock()
		r.closed = true
		_ = unix.Close(r.device)
		_ = unix.Close(r.ended)
	})
}

// end has both directions end. It may be called until they have.
func (r *relay) end() {
	r.once.Do(func() {
		_ = r.out.Close()
		_, _ = unix.Write(r.ended, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it counts to far more than one
	})
}

// up passes the kernel's messages on, each of which is one read.
func (r *relay) up() {
	defer r.end()
	b := batch{out: r.out, memory: r.memory, buf: make([]byte, 2*maxIn)}
	for {
		n, err := unix.Read(r.device, b.room())
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // the request was taken back
			continue
		case errors.Is(err, unix.EAGAIN):
			if b.held > 0 && !b.urgent && r.await(lazyTime) {
				continue
			}
			if b.flush() != nil || !r.await(-1) {
				return
			}
			continue
		case err != nil:
			return // unmounted
		}
		answer, err := b.add(n)
		if err != nil {
			return
		}
		if answer != nil {
			_, _ = unix.Write(r.device, answer) // nobody waits for it any more: no matter
		}
	}
}

// batch are messages that go to the host in one write.
type batch struct {
	out    io.Writer
	memory *memory
	buf    []byte
	held   int
	urgent bool // somebody waits for an answer
}

// room is where the next message goes.
func (b *batch) room() []byte { return b.buf[b.held : b.held+maxIn] }

// add takes the message that has been read into the room, unless the relay
// answers it.
func (b *batch) add(n int) (answer []byte, err error) {
	answer, to := b.memory.ask(b.buf[b.held : b.held+n])
	if to != keep {
		b.held += n
		b.urgent = b.urgent || to == send
	}
	if b.held > maxIn {
		err = b.flush()
	}
	return answer, err
}

func (b *batch) flush() error {
	if b.held == 0 {
		return nil
	}
	_, err := b.out.Write(b.buf[:b.held])
	b.held, b.urgent = 0, false
	if back := b.memory.givenBack(); back != nil && err == nil {
		_, err = b.out.Write(back)
	}
	return err
}

// await waits for the kernel's next message; false when there was none in time, or the
// relay is to end.
func (r *relay) await(longest time.Duration) bool {
	timeout := -1
	if longest >= 0 {
		timeout = int(longest.Milliseconds())
	}
	wait := []unix.PollFd{{Fd: int32(r.device), Events: unix.POLLIN}, {Fd: int32(r.ended), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(wait, timeout)
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && wait[1].Revents == 0
		}
	}
}

// down passes the host's messages on, each of which has to be one write.
func (r *relay) down() {
	defer r.end()
	buf := make([]byte, maxOut)
	in := bufio.NewReaderSize(r.in, 256<<10)
	for {
		message, err := next(in, buf)
		if err != nil {
			return
		}
		if r.memory.hear(message) {
			continue
		}
		// An answer that nobody waits for any more is refused: no matter.
		if _, err := unix.Write(r.device, message); errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EBADF) {
			return
		}
	}
}

// next reads one message into buf.
func next(in *bufio.Reader, buf []byte) ([]byte, error) {
	head, err := in.Peek(4)
	if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head)
	if n < leastOut || int64(n) > int64(len(buf)) {
		return nil, fmt.Errorf("a message of %d bytes", n)
	}
	_, err = io.ReadFull(in, buf[:n])
	return buf[:n], err
}
