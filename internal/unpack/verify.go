package unpack

import (
	"context"
	"errors"
	"fmt"
	"os"

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
	var found numbers
	group, ctx := errgroup.WithContext(ctx)
	n := workers(ix.FrameSize)
	for first := range n {
		group.Go(func() error { return ix.verify(ctx, file, first, n, &found) })
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("verify %s: %w", file.Name(), err)
	}
	return found.sorted(), nil
}

// verify reads every step-th frame.
func (ix Index) verify(ctx context.Context, file *os.File, first, step int, bad *numbers) error {
	buffer := make([]byte, ix.FrameSize)
	for i := first; i < len(ix.Frames); i += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch _, err := ReadFrame(ix, file, i, buffer); {
		case errors.Is(err, ErrDigest):
			bad.add(i)
		case err != nil:
			return err
		}
	}
	return nil
}
