package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/unpack"
)

// arrived is a frame that was read and not verified yet.
type arrived struct {
	frame frame
	data  []byte
}

// takeFrames reads all frames and the end of the tar in one goroutine, and
// verifies and writes in others. The number of buffers bounds the memory.
func (l *loading) takeFrames(ctx context.Context, workers int) error {
	frames := framesOf(l.indexes())
	l.progress = newProgress(l.o.Options, event.Load, title(l.list.Images), l.length(frames))
	l.progress.start()
	free := make(chan []byte, workers+1)
	for range cap(free) {
		free <- nil
	}
	group, reading := errgroup.WithContext(ctx)
	l.tar.src = interruptedBy(reading, l.tar.src) // a wrong frame ends the wait for the next
	work := make(chan arrived)
	for range workers {
		group.Go(func() error {
			for next := range work {
				// What was read before a cut is kept: not the reader's context.
				if err := l.put(ctx, next); err != nil {
					return err
				}
				free <- next.data
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(work)
		return l.readFrames(reading, frames, free, work)
	})
	return group.Wait()
}

func (l *loading) readFrames(ctx context.Context, frames []frame, free <-chan []byte, work chan<- arrived) error {
	for _, frame := range frames {
		name := frameEntry(frame.content)
		size, err := l.tar.next(name, frame.size)
		if err != nil {
			return err
		}
		if size != frame.size {
			return l.tar.refuse("%s has %d bytes instead of %d", name, size, frame.size)
		}
		var buffer []byte
		select {
		case buffer = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if int64(cap(buffer)) < size {
			buffer = make([]byte, size)
		}
		buffer = buffer[:size]
		if err := l.tar.body(name, buffer); err != nil {
			return err
		}
		select {
		case work <- arrived{frame, buffer}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if l.progress.at(l.tar.read) {
			l.tell()
		}
	}
	return l.tar.end()
}

// tell lets those who wait for an asset follow.
func (l *loading) tell() {
	for _, a := range l.assets {
		if a.claim != nil {
			a.claim.Progress(l.tar.read, l.progress.total)
		}
	}
}

// put verifies one frame and writes it wherever it is missing.
func (l *loading) put(ctx context.Context, next arrived) error {
	checked := false
	for _, target := range next.frame.targets {
		to := l.assets[target.asset]
		if !to.missing[target.number] {
			continue
		}
		checked = true
		if err := to.writer.Plain(ctx, target.number, next.data); err != nil {
			return wrong(to.asset.Name, err)
		}
	}
	if !checked && digest(next.data) != next.frame.content {
		return wrong(frameEntry(next.frame.content), unpack.ErrDigest)
	}
	return nil
}

func wrong(name string, err error) error {
	if errors.Is(err, unpack.ErrDigest) {
		return fault.New(fault.Trust, copyHint, "verify %s: %w", name, err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func (l *loading) indexes() []unpack.Index {
	indexes := make([]unpack.Index, len(l.assets))
	for i, a := range l.assets {
		indexes[i] = a.index
	}
	return indexes
}

// length is that of the tar, as far as it is right.
func (l *loading) length(frames []frame) int64 {
	size := l.tar.read + 2*blockSize
	for _, frame := range frames {
		size += entrySize(frame.size)
	}
	return size
}

// interruptible makes the reads of a file, such as a pipe on which nothing comes,
// end when ctx does.
func interruptible(ctx context.Context, src io.Reader) io.Reader {
	file, ok := src.(*os.File)
	if !ok {
		return src
	}
	return &polled{ctx, file}
}

// interruptedBy makes what interruptible gave end when another context does.
func interruptedBy(ctx context.Context, src io.Reader) io.Reader {
	if p, ok := src.(*polled); ok {
		return &polled{ctx, p.file}
	}
	return src
}

// pollEvery is how long a cancelled read may last.
const pollEvery = 200 * time.Millisecond

type polled struct {
	ctx  context.Context
	file *os.File
}

// Read waits for bytes or the end, looking at the context meanwhile.
func (p *polled) Read(b []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(p.file.Fd()), Events: unix.POLLIN}}
	for {
		if p.ctx.Err() != nil {
			return 0, context.Cause(p.ctx)
		}
		n, err := unix.Poll(fds, int(pollEvery.Milliseconds()))
		if n > 0 {
			return p.file.Read(b)
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for %s: %w", p.file.Name(), err)
		}
	}
}
