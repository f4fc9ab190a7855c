package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Stream delivers bytes of one file from one place, under a rate floor. Only time
// spent waiting for the network counts: a reader that is slow itself is not cut
// off. The errors of Read say how far it came. One goroutine may read it at a
// time; Close may be called at any moment.
type Stream struct {
	Place string // the base address it came from, for messages and for Mirrors.Strike
	From  int64  // first byte it delivers: Span.From, or 0 where the place knows no ranges
	Size  int64  // of the whole file, -1: unknown

	address string
	body    io.ReadCloser
	want    int64 // bytes it has to deliver, -1: as many as come
	read    int64

	cancel context.CancelCauseFunc // ends the request
	cause  func() error            // why the request was ended; nil while it was not
	stall  time.Duration
	floor  int64

	watch   *time.Timer
	waited  time.Duration // in the present span of time
	arrived int64         // in the present span of time

	watcher watcher // who counts what arrives, nil: nobody
	over    sync.Once
}

// watcher is told of a stream's bytes and of its one end: nil for a complete one.
type watcher interface {
	arrived(n int64)
	ended(s *Stream, err error)
}

// part is what a transport opened.
type part struct {
	address          string
	body             io.ReadCloser
	from, want, size int64
}

// errSlow is the cause that ends a request below the rate floor.
var errSlow = errors.New("too slow")

// stream puts a transport's bytes under the rate floor. Cancel ends the request
// whose context is ctx.
func (s *Source) stream(ctx context.Context, cancel context.CancelCauseFunc, p part) *Stream {
	return &Stream{
		Place: placeOf(p.address), From: p.from, Size: p.size,
		address: p.address, body: p.body, want: p.want,
		cancel: cancel, cause: func() error { return context.Cause(ctx) }, stall: s.stall, floor: s.floor,
	}
}

// placeOf is the base address of a file, for messages.
func placeOf(address string) string {
	base := Shown(Beside(address, ""))
	if strings.HasPrefix(base, "http") {
		return strings.TrimSuffix(base, "/")
	}
	return base
}

// Read passes bytes on.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.timed(p)
	s.read += int64(n)
	if s.watcher != nil {
		s.watcher.arrived(int64(n))
	}
	switch {
	case s.want >= 0 && s.read > s.want:
		n -= int(s.read - s.want)
		s.read = s.want
		err = failed(again, s.address, "Try again, or use another mirror.", "the server sent more than the %d bytes it announced", s.want)
	case err == io.EOF && s.want >= 0 && s.read < s.want:
		err = s.explain(io.ErrUnexpectedEOF)
	case err == nil && s.belowFloor():
		s.cancel(errSlow)
		err = s.explain(errSlow)
	case err != nil && err != io.EOF:
		err = s.explain(err)
	}
	s.end(err)
	return n, err
}

// timed reads what comes within the longest wait allowed.
func (s *Stream) timed(p []byte) (int, error) {
	if s.watch == nil {
		s.watch = time.AfterFunc(s.stall, func() { s.cancel(errSlow) })
	} else {
		s.watch.Reset(s.stall)
	}
	begun := time.Now()
	n, err := s.body.Read(p)
	s.watch.Stop()
	s.waited += time.Since(begun)
	s.arrived += int64(n)
	return n, err
}

// end tells the watcher, once, that a read was the last.
func (s *Stream) end(err error) {
	if err == nil || s.watcher == nil {
		return
	}
	if err == io.EOF {
		err = nil
	}
	s.over.Do(func() { s.watcher.ended(s, err) })
}

// Close ends the request. What was not read is not waited for: only a connection
// whose answer came to its end serves again.
func (s *Stream) Close() error {
	s.cancel(nil)
	return s.body.Close()
}

// closed is whether the reader's own side ended the request.
func (s *Stream) closed() bool {
	cause := s.cause()
	return cause != nil && !errors.Is(cause, errSlow)
}

// belowFloor judges a span of time that is over and begins the next.
func (s *Stream) belowFloor() bool {
	if s.waited < s.stall {
		return false
	}
	slow := float64(s.arrived) < float64(s.floor)*s.waited.Seconds()
	s.waited, s.arrived = 0, 0
	return slow
}

func (s *Stream) explain(err error) error {
	cause := s.cause()
	switch {
	case errors.Is(err, errSlow) || errors.Is(cause, errSlow):
		return failed(again, s.address, "The connection is dead or very slow: try again, or use another mirror.",
			"less than %d bytes a second for %v, after %s", s.floor, s.stall, s.progress())
	case cause != nil:
		return cancelled(s.address, cause)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return failed(again, s.address, "Try again; if it stays, the server or a proxy cuts the connection.",
			"the connection was cut after %s: %w", s.progress(), err)
	}
	return failed(again, s.address, "Try again; if it stays, check this computer's network.",
		"the connection broke after %s: %w", s.progress(), err)
}

func (s *Stream) progress() string {
	text := fmt.Sprintf("%d bytes", s.read)
	if s.want >= 0 {
		text = fmt.Sprintf("%d of %d bytes", s.read, s.want)
	}
	if s.From > 0 {
		text += fmt.Sprintf(" from byte %d on", s.From)
	}
	return text
}
