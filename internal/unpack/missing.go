package unpack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Missing returns the numbers of the frames that the file does not hold, sorted.
// It reads only where the file system keeps anything: a hole is a zero frame
// that is there or any other that is not. A zero frame that holds other bytes is
// missing too; Zero repairs it.
func (w *Writer) Missing(ctx context.Context) ([]int, error) {
	var missing numbers
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range w.decoder.Slots() {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(w.index.Frames); i = int(next.Add(1)) - 1 {
				there, err := w.there(ctx, i)
				if err != nil {
					return err
				}
				if !there {
					missing.add(i)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("look for what %s holds: %w", w.dst.Name(), err)
	}
	return missing.sorted(), nil
}

// there reports whether the file holds frame i.
func (w *Writer) there(ctx context.Context, i int) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, context.Cause(ctx)
	}
	kept, err := hasData(w.dst, w.index.Place(i), w.index.Length(i))
	if err != nil || !kept {
		return w.index.Frames[i].Zero, err
	}
	buffer, err := w.decoder.take(ctx, w.index.Length(i))
	if err != nil {
		return false, err
	}
	defer w.decoder.give(buffer)
	if _, err = ReadFrame(w.index, w.dst, i, buffer); errors.Is(err, ErrDigest) {
		return false, nil
	}
	return err == nil, err
}

// numbers collects frames that several goroutines find.
type numbers struct {
	mu   sync.Mutex
	list []int
}

func (n *numbers) add(i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, i)
}

func (n *numbers) sorted() []int {
	slices.Sort(n.list)
	return n.list
}
