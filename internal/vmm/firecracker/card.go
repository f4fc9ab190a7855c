package firecracker

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/vmm"
)

// The names of the network card: the tap's is in every snapshot, so it never changes.
const (
	tapName = "tap0"
	cardID  = "net0"
	cardMAC = "52:55:0a:00:02:0f"
)

// card is the host's end of the network card: the packet socket behind the tap of the
// Firecracker that runs now. Each has a tap of its own, in a cage of its own; between
// two of them there is no guest, and what is written is lost.
type card struct {
	mu   sync.Mutex
	far  *os.File      // nil between two Firecrackers
	next chan struct{} // closed when far changes
	over bool

	header [virtioHeader]byte // of the frame that is read; one goroutine reads
}

var _ vmm.Networked = (*machine)(nil)

func newCard() *card { return &card{next: make(chan struct{})} }

// Card is the host's end of the network card.
func (m *machine) Card() vmm.Card {
	if m.card == nil {
		return nil
	}
	return m.card
}

// tap is the card of the cage.
func (m *machine) tap() *cage.Tap {
	if m.card == nil {
		return nil
	}
	return &cage.Tap{Name: tapName, MTU: vmm.CardMTU}
}

// attach puts the socket of another tap in the place of the one before; nil: none.
func (c *card) attach(far *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.far != nil {
		_ = c.far.Close()
	}
	if c.over && far != nil {
		_ = far.Close()
		far = nil
	}
	c.far = far
	close(c.next)
	c.next = make(chan struct{})
}

// Close ends the guest's network; the machine runs on.
func (c *card) Close() error {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.attach(nil)
	return nil
}

func (c *card) current() (far *os.File, next <-chan struct{}, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.far, c.next, c.over
}

// ReadFrame reads the next frame, from one Firecracker after another.
func (c *card) ReadFrame(p []byte) (int, error) {
	for {
		far, next, over := c.current()
		if over {
			return 0, net.ErrClosed
		}
		if far == nil {
			<-next
			continue
		}
		n, err := c.read(far, p)
		switch {
		case n > 0:
			return n, nil
		case err == nil: // no frame that could be passed on
		case !c.replaced(far):
			return 0, err
		}
	}
}

// replaced tells whether a socket is no longer the card's.
func (c *card) replaced(far *os.File) bool {
	now, _, _ := c.current()
	return now != far
}

// read reads one frame and does what Firecracker left undone. A frame that does not
// fit, or whose header makes no sense, is 0 bytes.
func (c *card) read(far *os.File, p []byte) (size int, err error) {
	raw, err := far.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		size, failed = unix.Readv(int(fd), [][]byte{c.header[:], p})
		return !errors.Is(failed, syscall.EAGAIN)
	})
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	size -= virtioHeader
	if size <= 0 || size == len(p) { // it may have been cut
		return 0, nil
	}
	if !complete(c.header[:], p[:size]) {
		return 0, nil
	}
	return size, nil
}

// WriteFrame writes one frame. It is lost where the guest takes none.
func (c *card) WriteFrame(parts [][]byte) error {
	far, _, over := c.current()
	if over {
		return net.ErrClosed
	}
	if far == nil {
		return nil
	}
	raw, err := far.SyscallConn()
	if err != nil {
		return c.lost(far, err)
	}
	whole := make([][]byte, 0, 1+len(parts))
	whole = append(append(whole, noOffload[:]), parts...)
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		_, failed = unix.Writev(int(fd), whole)
		return !errors.Is(failed, syscall.EAGAIN)
	})
	return c.lost(far, errors.Join(err, failed))
}

// lost forgives what a wire may do: to lose frames that nobody takes.
func (c *card) lost(far *os.File, err error) error {
	if errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENETDOWN) || c.replaced(far) {
		return nil
	}
	return err
}

// virtioHeader is the length of virtio's header in front of each frame.
const virtioHeader = 10

// noOffload is the header of a frame that is complete.
var noOffload [virtioHeader]byte

// What virtio's header says.
const (
	needsChecksum = 1 // the checksum from csum_start on is to be completed

	gsoNone = 0
	gsoTCP4 = 1
	gsoUDP  = 3
	gsoTCP6 = 4
	gsoECN  = 0x80 // beside another
)

// complete does what the guest left to its card: the checksum. Segments that the card
// was to cut stay whole: nothing on this wire is too narrow for them, and their
// lengths and checksums are those of the whole. False: the header makes no sense, or
// asks for what Firecracker never offers.
func complete(header, frame []byte) bool {
	switch header[1] &^ gsoECN {
	case gsoNone, gsoTCP4, gsoTCP6, gsoUDP:
	default: // trains of datagrams, which would have to be cut
		return false
	}
	if header[0]&needsChecksum == 0 {
		return true
	}
	start := int(binary.NativeEndian.Uint16(header[6:]))
	at := start + int(binary.NativeEndian.Uint16(header[8:]))
	if start >= len(frame) || at+2 > len(frame) {
		return false
	}
	sum := ^fold(frame[start:])
	if sum == 0 { // means "none" to UDP
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(frame[at:], sum)
	return true
}

// fold is the sum of RFC 1071 over p. What stands where the checksum belongs, the
// sum of the addresses, is part of it.
func fold(p []byte) uint16 {
	var sum, carry uint64
	for ; len(p) >= 8; p = p[8:] {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(p), carry)
	}
	var rest [8]byte
	copy(rest[:], p)
	sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(rest[:]), carry)
	sum, carry = bits.Add64(sum, 0, carry)
	sum += carry
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
