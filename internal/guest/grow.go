//go:build linux

package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/wire"
)

// growRequestTime is how long the first line may take.
const growRequestTime = 10 * time.Second

// growing serves grow streams, one after the other.
type growing struct {
	mu   sync.Mutex
	grow func(ctx context.Context, size int64) (int64, error)
}

// Serve grows the scratch once, and gives up when the host does.
func (g *growing) Serve(ctx context.Context, stream net.Conn) error {
	defer stream.Close()
	in := bufio.NewReaderSize(stream, wire.MaxMessage)
	_ = stream.SetReadDeadline(time.Now().Add(growRequestTime))
	line, err := in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read the request of a grow stream: %w", err)
	}
	_ = stream.SetReadDeadline(time.Time{})
	var r wire.GrowRequest
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("read the request of a grow stream: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the stream, which Serve closes
		_, _ = in.ReadByte()
		cancel()
	}()
	g.mu.Lock()
	defer g.mu.Unlock()
	answer := wire.GrowAnswer{}
	if answer.Bytes, err = g.grow(ctx, r.Bytes); err != nil {
		answer.Error = err.Error()
	}
	if line, err = json.Marshal(answer); err == nil {
		_, err = stream.Write(append(line, '\n'))
	}
	return err
}
