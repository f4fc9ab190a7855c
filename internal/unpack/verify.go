package unpack

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Verify reads an expanded file and returns the numbers of the frames that are
// not what the index says, sorted; none means that the file is right. A file of
// another size is an error that wraps ErrDigest.
func Verify(ctx context.Context, ix Index, file *os.File) (bad []int, err error) {
	if err := ix.validate(); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	if info.Size() != ix.Size {
		return nil, fmt.Errorf("verify %s: %d bytes instead of %d: %w", file.Name(), info.Size(), ix.Size, ErrDigest)
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	n := workers(ix.FrameSize)
	for first := range n {
		group.Go(func() error {
			buffer := make([]byte, ix.FrameSize)
			for i := first; i < len(ix.Frames); i += n {
				ok, err := ix.matches(ctx, file, i, buffer)
				if err != nil {
					return err
				}
				if !ok {
					mu.Lock()
					bad = append(bad, i)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("verify %s: %w", file.Name(), err)
	}
	slices.Sort(bad)
	return bad, nil
}

func (ix Index) matches(ctx context.Context, file io.ReaderAt, i int, buffer []byte) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	data := buffer[:ix.length(i)]
	if n, err := file.ReadAt(data, int64(i)*ix.FrameSize); n < len(data) {
		return false, fmt.Errorf("read frame %d: %w", i, err)
	}
	if ix.Frames[i].Zero {
		return isZero(data), nil
	}
	return hexDigest(sha256.Sum256(data)) == ix.Frames[i].Content, nil
}
