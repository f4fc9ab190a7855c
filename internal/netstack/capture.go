package netstack

import (
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// The file format of libpcap, with Ethernet frames.
const (
	captureMagic   = 0xa1b2c3d4
	captureVersion = 2<<16 | 4 // 2.4, in the order of the bytes
	ethernetFrames = 1
	packetHeader   = 16
)

// capture writes each frame of the guest to a file that tools such as Wireshark
// read. It ends where the file is as long as it may be, or cannot be written; the
// guest's network goes on.
type capture struct {
	now func() time.Time

	mu   sync.Mutex
	out  io.Writer // nil: it has ended
	left int64     // bytes
	line []byte
}

// newCapture begins a file that may hold so many bytes.
func newCapture(out io.Writer, most int64, now func() time.Time) (*capture, error) {
	head := binary.LittleEndian.AppendUint32(nil, captureMagic)
	head = binary.LittleEndian.AppendUint16(head, captureVersion>>16)
	head = binary.LittleEndian.AppendUint16(head, captureVersion&0xffff)
	head = append(head, make([]byte, 8)...) // UTC, no accuracy claimed
	head = binary.LittleEndian.AppendUint32(head, MaxFrame)
	head = binary.LittleEndian.AppendUint32(head, ethernetFrames)
	_, err := out.Write(head)
	return &capture{now: now, out: out, left: most - int64(len(head))}, err
}

// frame writes one frame, given in parts.
func (c *capture) frame(parts [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		return
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if c.left -= int64(packetHeader + size); c.left < 0 {
		c.out = nil
		return
	}
	now := c.now()
	c.line = binary.LittleEndian.AppendUint32(c.line[:0], uint32(now.Unix()))
	c.line = binary.LittleEndian.AppendUint32(c.line, uint32(now.Nanosecond()/1000))
	c.line = binary.LittleEndian.AppendUint32(c.line, uint32(size))
	c.line = binary.LittleEndian.AppendUint32(c.line, uint32(size))
	for _, p := range parts {
		c.line = append(c.line, p...)
	}
	if _, err := c.out.Write(c.line); err != nil {
		c.out = nil
	}
}
