package qemu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"github.com/smolvm/smolvm/internal/vmm"
)

// readAhead is how much of what QEMU sent is read at once: the longest frame and
// many short ones.
const readAhead = 128 << 10

// writeAhead bounds what QEMU finds to read at once, in bytes. It reads into a buffer
// of 68 KiB on its main stack, whose last 10 KiB or so lie where QEMU (seen with 7.2)
// left the header of an ELF kernel when it set the machine up. microvm's firmware
// asks for that header at every boot: a read that reached it would leave a guest
// that restarts without a kernel. Linux lets three times the size be on its way.
const writeAhead = 8 << 10

// card is the host's end of the network card. QEMU's stream netdev puts the
// length of each frame in front of it, four bytes, the highest first.
type card struct {
	conn *net.UnixConn
	in   *bufio.Reader

	writing sync.Mutex
	prefix  [4]byte
	parts   net.Buffers // reused
}

var _ vmm.Networked = (*machine)(nil)

// newCard makes a card on our end of a pair; nil where none is wanted.
func newCard(wanted bool, pair func(name string) (*net.UnixConn, error)) (*card, error) {
	if !wanted {
		return nil, nil
	}
	ours, err := pair("card")
	if err != nil {
		return nil, err
	}
	if err := ours.SetWriteBuffer(writeAhead); err != nil {
		return nil, errors.Join(fmt.Errorf("bound what QEMU reads of the network at once: %w", err), ours.Close())
	}
	return &card{conn: ours, in: bufio.NewReaderSize(ours, readAhead)}, nil
}

// Card is the host's end of the network card.
func (m *machine) Card() vmm.Card {
	if m.card == nil {
		return nil
	}
	return m.card
}

// ReadFrame reads the next frame.
func (c *card) ReadFrame(p []byte) (int, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(c.in, prefix[:]); err != nil {
		return 0, ended(err)
	}
	size := binary.BigEndian.Uint32(prefix[:])
	if uint64(size) > uint64(len(p)) {
		return 0, fmt.Errorf("QEMU sends a frame of %d bytes, more than %d", size, len(p))
	}
	_, err := io.ReadFull(c.in, p[:size])
	return int(size), ended(err)
}

// ended makes one error of the ways in which QEMU's end shows.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return net.ErrClosed
	}
	return err
}

// WriteFrame writes one frame. It waits while the guest takes none.
func (c *card) WriteFrame(parts [][]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	size := 0
	c.parts = append(c.parts[:0], c.prefix[:])
	for _, part := range parts {
		size += len(part)
		c.parts = append(c.parts, part)
	}
	binary.BigEndian.PutUint32(c.prefix[:], uint32(size))
	all := c.parts // WriteTo moves what it is called on
	_, err := all.WriteTo(c.conn)
	return err
}

// Close ends the guest's network; the machine runs on.
func (c *card) Close() error { return c.conn.Close() }

// hangUp closes the card, if there is one.
func (c *card) hangUp() {
	if c != nil {
		_ = c.conn.Close()
	}
}
