package unpack

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Decoder holds the decoders and buffers of one run. It serves any number of
// Writers; their work at a time, and so the memory of all of them together, is
// bounded by its slots.
type Decoder struct {
	zstd *zstd.Decoder
	// slots are the buffers for expanded frames. Whoever works on a frame holds
	// one; their number bounds memory and parallelism.
	slots chan []byte

	mu    sync.Mutex
	files []*os.File // what Writers opened
}

// NewDecoder prepares two slots for each core: while one frame is on its way to
// the disk, another is decoded. Buffers are made when they are first used.
func NewDecoder() (*Decoder, error) {
	n := min(2*workers(maxFrameSize), maxSlots)
	decoder, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(n),
		zstd.WithDecoderMaxWindow(maxFrameSize),
		zstd.WithDecoderMaxMemory(maxFrameSize),
		zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(true)) // SHA-256 has been checked
	if err != nil {
		return nil, fmt.Errorf("make a decoder: %w", err)
	}
	d := &Decoder{zstd: decoder, slots: make(chan []byte, n)}
	for range n {
		d.slots <- nil
	}
	return d, nil
}

// Close ends the decoders and closes what Writers of this Decoder opened
// themselves. None of them may be at work, nor be used again.
func (d *Decoder) Close() {
	d.zstd.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, file := range d.files {
		_ = file.Close() // the fsync of the caller's own descriptor reports errors
	}
	d.files = nil
}

// own keeps a file until Close.
func (d *Decoder) own(file *os.File) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = append(d.files, file)
}

// Slots is how many frames are worked on at a time; more goroutines only wait.
func (d *Decoder) Slots() int { return cap(d.slots) }

// take waits for a buffer of at least size bytes; give returns it.
func (d *Decoder) take(ctx context.Context, size int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case buffer := <-d.slots:
		if int64(cap(buffer)) < size {
			buffer = make([]byte, size)
		}
		return buffer[:size], nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (d *Decoder) give(buffer []byte) { d.slots <- buffer }

// decode expands one frame whose digest was checked into plain, which has the
// length that the frame must have. Nothing is reserved for what a header claims.
func (d *Decoder) decode(packed, plain []byte, window int64) error {
	if err := checkHeader(packed, int64(len(plain)), window); err != nil {
		return err
	}
	out, err := d.zstd.DecodeAll(packed, plain[:0:len(plain)])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(out) != len(plain) {
		return fmt.Errorf("%w: %d bytes instead of %d", ErrFormat, len(out), len(plain))
	}
	return nil
}

// maxSlots leaves room within memory for what the callers hold of the archive.
const maxSlots = 10

// workers is the number of frames of that size that may be worked on at a time.
func workers(frameSize int64) int {
	return max(1, min(runtime.GOMAXPROCS(0), int(memory/(2*frameSize+overhead))))
}
