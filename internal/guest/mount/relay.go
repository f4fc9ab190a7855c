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

	"golang.org/x/sys/unix"
)

// Bounds of messages.
const (
	maxData  = 1 << 20         // of one read or write
	maxIn    = maxData + 8<<10 // of the kernel: the buffer has to be larger than any
	leastOut = 16              // the header alone
	maxOut   = maxData + 4<<10 // of the host
)

// relay passes messages on until either end is gone.
type relay struct {
	device int // /dev/fuse, blocking: woken by the kernel itself, not by way of a poller
	in     io.Reader
	out    io.WriteCloser

	running sync.WaitGroup
	once    sync.Once
}

func (r *relay) start() {
	r.running.Go(r.up)
	r.running.Go(r.down)
}

// end closes both ends. Programs that use a mount then get errors.
func (r *relay) end() {
	r.once.Do(func() {
		_ = r.out.Close()
		_ = unix.Close(r.device)
	})
}

// up passes the kernel's messages on, each of which is one read.
func (r *relay) up() {
	defer r.end()
	buf := make([]byte, maxIn)
	for {
		n, err := unix.Read(r.device, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAGAIN):
			continue // the request was taken back
		case err != nil:
			return // unmounted
		}
		if _, err := r.out.Write(buf[:n]); err != nil {
			return
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
