package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/unpack"
)

// frame is one entry of a tar below frames/: expanded bytes, once, however many
// assets hold them.
type frame struct {
	content string // SHA-256
	size    int64
	targets []target
}

// target is a frame's place in an asset.
type target struct{ asset, number int }

// framesOf are the frames that assets need, in the order of a tar: that of the
// assets, each frame where it is first needed. Zero frames are not written.
func framesOf(indexes []unpack.Index) []frame {
	var frames []frame
	at := map[string]int{}
	for a, ix := range indexes {
		for n, f := range ix.Frames {
			if f.Zero {
				continue
			}
			known, ok := at[f.Content]
			if !ok {
				known = len(frames)
				at[f.Content] = known
				frames = append(frames, frame{content: f.Content, size: ix.Length(n)})
			}
			frames[known].targets = append(frames[known].targets, target{a, n})
		}
	}
	return frames
}

const repairHint = "Its bytes on this disk are not those that were verified. `smolvm image verify` finds what is wrong, `smolvm image pull` repairs it."

// readAhead is how many frames of the largest size may be in memory while a tar
// is written.
func readAhead() int { return min(runtime.GOMAXPROCS(0), 6) + 1 }

// piece is a frame on its way from the store into the tar.
type piece struct {
	number int
	data   []byte
	ready  chan struct{} // closed when data was read and verified
}

// write writes the whole tar.
func (s *saving) write(ctx context.Context, dst io.Writer) error {
	s.progress.start()
	t := &tarWriter{dst: dst}
	for _, item := range s.items {
		if err := t.add(item.name, item.data); err != nil {
			return err
		}
	}
	written := map[string]bool{}
	for _, source := range s.assets {
		if err := s.writeAsset(ctx, t, source, written); err != nil {
			s.doubt(ctx, source, err)
			return fmt.Errorf("%s: %w", source.asset.Name, err)
		}
	}
	if err := t.end(); err != nil {
		return err
	}
	if t.written != s.size {
		return fmt.Errorf("%d bytes were written instead of %d", t.written, s.size)
	}
	return nil
}

// doubt makes the store look at every byte of a file that was found to be wrong
// although nobody seems to have touched it, before it boots again.
func (s *saving) doubt(ctx context.Context, from source, found error) {
	if !errors.Is(found, unpack.ErrDigest) {
		return
	}
	claim, err := s.store.Seize(ctx, from.asset.Index.SHA256, nil)
	if err == nil {
		err = errors.Join(claim.Doubt(ctx), claim.Release())
	}
	if err != nil {
		s.progress.warn("%s could not be marked as doubtful: %v", from.asset.Name, err)
	}
}

// writeAsset reads and verifies frames on all cores and writes them in order,
// those that the tar has already not again. The whole file passes here, so its
// own digest is checked, too.
func (s *saving) writeAsset(ctx context.Context, t *tarWriter, from source, written map[string]bool) error {
	file, err := os.Open(from.path)
	if err != nil {
		return err
	}
	defer file.Close()
	group, ctx := errgroup.WithContext(ctx)
	n := readAhead()
	work, order, free := make(chan *piece), make(chan *piece, n), make(chan []byte, n)
	for range n {
		free <- nil
	}
	group.Go(func() error { return queue(ctx, len(from.index.Frames), free, work, order) })
	for range n - 1 {
		group.Go(func() error { return readFrames(from.index, file, work) })
	}
	group.Go(func() error { return s.writeFrames(ctx, t, from, order, free, written) })
	return readable(group.Wait())
}

// queue hands frames out in order, each with a buffer.
func queue(ctx context.Context, frames int, free <-chan []byte, work, order chan<- *piece) error {
	defer close(work)
	defer close(order)
	for i := range frames {
		next := &piece{number: i, ready: make(chan struct{})}
		select {
		case next.data = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for _, to := range []chan<- *piece{order, work} {
			select {
			case to <- next:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func readFrames(ix unpack.Index, file io.ReaderAt, work <-chan *piece) error {
	for next := range work {
		data, err := unpack.ReadFrame(ix, file, next.number, next.data)
		if err != nil {
			return err
		}
		next.data = data
		close(next.ready)
	}
	return nil
}

func (s *saving) writeFrames(
	ctx context.Context, t *tarWriter, from source, order <-chan *piece, free chan<- []byte, written map[string]bool,
) error {
	whole := sha256.New()
	for next := range order {
		select {
		case <-next.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		whole.Write(next.data)
		f := from.index.Frames[next.number]
		if !f.Zero && !written[f.Content] {
			if err := t.add(frameEntry(f.Content), next.data); err != nil {
				return err
			}
			written[f.Content] = true
		}
		s.progress.at(t.written)
		free <- next.data
	}
	if ctx.Err() == nil && hex.EncodeToString(whole.Sum(nil)) != from.asset.Content.SHA256 {
		return fault.New(fault.Trust, "The signed manifest and its index do not fit together: tell its publisher.",
			"the whole file: %w", unpack.ErrDigest)
	}
	return nil
}

// readable says what to do about bytes that are not the verified ones.
func readable(err error) error {
	var known *fault.Fault
	short := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err == nil || errors.As(err, &known) || !short && !errors.Is(err, unpack.ErrDigest) {
		return err
	}
	return fault.New(fault.Trust, repairHint, "read from the store: %w", err)
}
