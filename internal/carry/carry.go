// Package carry takes a TCP connection over a stream that cannot stay half closed:
// both ends of the guest link use it for forwarded ports.
//
// Input is a connection and a stream, output the connection's bytes at the other
// end, with its end in each direction: a frame is two bytes of length and as many
// of content, one of length 0 says that no more comes. A stream that ends without
// that is a broken connection, and is shown as one. Nothing is kept.
package carry

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// chunk is the most content of a frame.
const chunk = 32 << 10

// Join carries both ways until both directions have ended or one broke, and closes
// the connection and the stream. in reads the stream.
func Join(conn *net.TCPConn, in *bufio.Reader, stream io.ReadWriteCloser) error {
	j := &joint{conn: conn, stream: stream}
	var carrying, watching sync.WaitGroup
	var sent, received error
	carrying.Go(func() {
		if sent = j.send(); sent != nil {
			j.abort()
		}
	})
	received = j.receive(in)
	if received != nil {
		j.abort()
	} else {
		watching.Go(func() { j.watch(in) })
	}
	carrying.Wait()
	_, _ = conn.Close(), stream.Close()
	watching.Wait() // the other end closes the stream, too
	return errors.Join(sent, received)
}

// joint is one Join.
type joint struct {
	conn   *net.TCPConn
	stream io.ReadWriteCloser
	ended  atomic.Bool // the connection has said all, and so have we
}

// abort makes the end of a broken connection visible on both sides.
func (j *joint) abort() {
	_ = j.conn.SetLinger(0) // the peer sees a reset, not an end
	_ = j.conn.Close()
	_ = j.stream.Close()
}

// watch notices that the other end gives up while the connection still speaks.
func (j *joint) watch(in io.ByteReader) {
	if _, _ = in.ReadByte(); !j.ended.Load() {
		j.abort()
	}
}

func (j *joint) send() error {
	buf := make([]byte, 2+chunk)
	for {
		n, err := j.conn.Read(buf[2:])
		if n > 0 {
			binary.BigEndian.PutUint16(buf, uint16(n))
			if _, err := j.stream.Write(buf[:2+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			j.ended.Store(true) // before the other end may close
			_, err = j.stream.Write([]byte{0, 0})
			return err
		}
		if err != nil {
			return err
		}
	}
}

func (j *joint) receive(in io.Reader) error {
	buf := make([]byte, chunk)
	for {
		var size [2]byte
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return noEnd(err)
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		switch {
		case n == 0:
			return j.conn.CloseWrite()
		case n > chunk:
			return errors.New("a frame of a forwarded connection is too long")
		}
		if _, err := io.ReadFull(in, buf[:n]); err != nil {
			return noEnd(err)
		}
		if _, err := j.conn.Write(buf[:n]); err != nil {
			return err
		}
	}
}

// noEnd makes an end in the wrong place an error.
func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
