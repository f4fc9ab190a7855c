package unpack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/smolvm/smolvm/internal/manifest"
)

// piece is one frame on its way from the source to the archive.
type piece struct {
	data   []byte // expanded
	packed []byte
	frame  Frame
	ready  chan struct{} // closed when packed and frame are set
}

// Encode makes one Zstandard frame that states its content's size, always the same
// of the same bytes. Several calls run at a time.
type Encode func(ctx context.Context, data []byte) ([]byte, error)

// Compress reads size bytes of src and writes the archive to dst. The same
// bytes always give the same archive. It returns the index and the digests of
// the archive and of the whole expanded file.
func Compress(ctx context.Context, src io.ReaderAt, size int64, dst io.Writer) (ix Index, archive, content manifest.Digest, err error) {
	return CompressWith(ctx, src, size, dst, nil)
}

// CompressWith is Compress with an encoder of the caller's, whose frames are
// decoded again and compared before they are used. Nil: the one built in.
func CompressWith(ctx context.Context, src io.ReaderAt, size int64, dst io.Writer, encode Encode) (ix Index, archive, content manifest.Digest, err error) {
	if size < 1 || size > maxSize {
		return ix, archive, content, fmt.Errorf("compress: size %d is not between 1 and %d", size, int64(maxSize))
	}
	encode, done, err := checkedOrBuiltIn(encode)
	if err != nil {
		return ix, archive, content, fmt.Errorf("compress: %w", err)
	}
	defer done()

	p := packer{src: src, size: size, dst: dst, encode: encode, whole: sha256.New(), archive: sha256.New()}
	if err := p.run(ctx); err != nil {
		return ix, archive, content, fmt.Errorf("compress: %w", err)
	}
	ix = Index{Schema: indexSchema, FrameSize: FrameSize, Size: size, Frames: p.frames}
	archive = manifest.Digest{SHA256: sum(p.archive), Size: ix.ArchiveSize()}
	content = manifest.Digest{SHA256: sum(p.whole), Size: size}
	return ix, archive, content, ix.validate()
}

type packer struct {
	src     io.ReaderAt
	size    int64
	dst     io.Writer
	encode  Encode
	whole   hash.Hash // owned by read
	archive hash.Hash // owned by write
	frames  []Frame   // owned by write
}

// run has one goroutine that reads and hashes the file in order, some that
// compress, and one that writes in order. The queue's length bounds the memory.
func (p *packer) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	n := workers(FrameSize)
	work := make(chan *piece)
	order := make(chan *piece, n)
	group.Go(func() error { return p.read(ctx, work, order) })
	for range n {
		group.Go(func() error { return p.pack(ctx, work) })
	}
	group.Go(func() error { return p.write(ctx, order) })
	return group.Wait()
}

func (p *packer) read(ctx context.Context, work, order chan<- *piece) error {
	defer close(work)
	defer close(order)
	for at := int64(0); at < p.size; at += FrameSize {
		data := make([]byte, min(FrameSize, p.size-at))
		if n, err := p.src.ReadAt(data, at); n < len(data) {
			return fmt.Errorf("read %d bytes at %d: %w", len(data), at, err)
		}
		p.whole.Write(data)
		next := &piece{data: data, ready: make(chan struct{})}
		for _, queue := range []chan<- *piece{order, work} {
			select {
			case queue <- next:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

func (p *packer) pack(ctx context.Context, work <-chan *piece) (err error) {
	for next := range work {
		if next.frame.Zero = isZero(next.data); next.frame.Zero {
			next.packed = zeroFrame(len(next.data))
		} else {
			if next.packed, err = p.encode(ctx, next.data); err != nil {
				return err
			}
			next.frame.Content = hexDigest(sha256.Sum256(next.data))
		}
		next.data = nil
		next.frame.Length = int64(len(next.packed))
		next.frame.Compressed = hexDigest(sha256.Sum256(next.packed))
		close(next.ready)
	}
	return nil
}

func (p *packer) write(ctx context.Context, order <-chan *piece) error {
	var offset int64
	for next := range order {
		select {
		case <-next.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := p.dst.Write(next.packed); err != nil {
			return fmt.Errorf("write the archive at %d: %w", offset, err)
		}
		p.archive.Write(next.packed)
		next.frame.Offset = offset
		offset += next.frame.Length
		p.frames = append(p.frames, next.frame)
	}
	return nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
