package guestlink

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// rawBuffer is larger than most requests of a guest, and as much as a socket has
// at a time.
const rawBuffer = 256 << 10

// Raw is a port that carries bytes, no streams.
type Raw struct {
	net.Conn
	in *bufio.Reader
}

// Read reads on where the opening left off.
func (r *Raw) Read(p []byte) (int, error) { return r.in.Read(p) }

// OpenRaw waits for the guest's opening line and answers it, as Open does. What
// follows has to begin with first: that tells it from bytes of an earlier boot.
func OpenRaw(ctx context.Context, conn net.Conn, first []byte) (*Raw, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	in := bufio.NewReaderSize(conn, rawBuffer)
	err := shakeHands(in, conn, func(in *bufio.Reader) (bool, error) {
		next, err := in.Peek(len(first))
		return bytes.Equal(next, first), err
	})
	if err != nil || !stop() {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("open the port of mounts: %w", err)
	}
	return &Raw{conn, in}, nil
}

var _ io.ReadWriter = (*Raw)(nil)
