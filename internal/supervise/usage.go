package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/wire"
)

// usage joins the client to a stream of what the guest uses.
func (s *server) usage(ctx context.Context, conn *net.UnixConn, out *frameWriter, r wire.UsageRequest) error {
	line, err := json.Marshal(r)
	if err != nil {
		return s.refuse(conn, out, err)
	}
	stream, err := s.guest.stream(ctx, wire.StreamUsage)
	if err == nil {
		_, err = stream.Write(append(line, '\n'))
	}
	if err != nil {
		return s.refuse(conn, out, err)
	}
	return join(ctx, conn, out, stream)
}

// Usage calls take with what the guest uses, at once and then every so often, until
// take says false, ctx ends or the sandbox does.
func (c *Client) Usage(ctx context.Context, every time.Duration, take func(wire.Usage) bool) error {
	const attempt = "ask the sandbox what it uses"
	call, err := c.begin(ctx, request{Op: opUsage, Usage: &wire.UsageRequest{EveryMS: every.Milliseconds()}})
	if err != nil {
		return fmt.Errorf("%s: %w", attempt, err)
	}
	defer call.end()
	in := bufio.NewReaderSize(call.conn, wire.MaxMessage)
	for {
		line, err := in.ReadSlice('\n')
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", attempt, err)
		}
		var u wire.Usage
		if err := json.Unmarshal(line, &u); err != nil || !u.Sane() {
			return fault.New(fault.Boot, "", "%s: its answer cannot be true", attempt)
		}
		if !take(u) {
			return nil
		}
	}
}
