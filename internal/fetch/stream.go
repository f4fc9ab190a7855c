package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// stream is the body of an answer under a rate floor. Only time spent waiting
// for the network counts: a reader that is slow itself is not cut off.
type stream struct {
	address string
	body    io.ReadCloser
	size    int64 // -1: unknown
	read    int64

	cancel context.CancelCauseFunc // ends the request
	cause  func() error            // why the request was ended; nil while it was not
	stall  time.Duration
	floor  int64

	waited  time.Duration // in the present span
	arrived int64         // in the present span
}

// errSlow is the cause that ends a request below the rate floor.
var errSlow = errors.New("too slow")

// Read passes bytes on. One goroutine may call it at a time.
func (s *stream) Read(p []byte) (int, error) {
	watch := time.AfterFunc(s.stall, func() { s.cancel(errSlow) })
	begun := time.Now()
	n, err := s.body.Read(p)
	s.waited += time.Since(begun)
	watch.Stop()
	s.read += int64(n)
	s.arrived += int64(n)
	switch {
	case err == io.EOF:
		return n, err
	case err == nil && s.belowFloor():
		s.cancel(errSlow)
		return n, s.explain(errSlow)
	case err == nil:
		return n, nil
	}
	return n, s.explain(err)
}

// Close ends the request. It may be called while Read waits.
func (s *stream) Close() error {
	s.cancel(nil)
	return s.body.Close()
}

// belowFloor judges a span that is over and begins the next.
func (s *stream) belowFloor() bool {
	if s.waited < s.stall {
		return false
	}
	slow := float64(s.arrived) < float64(s.floor)*s.waited.Seconds()
	s.waited, s.arrived = 0, 0
	return slow
}

func (s *stream) explain(err error) error {
	cause := s.cause()
	switch {
	case errors.Is(err, errSlow) || errors.Is(cause, errSlow):
		return failed(s.address, "The connection is dead or very slow: try again, or use another mirror.",
			"less than %d bytes a second for %v, after %s", s.floor, s.stall, s.progress())
	case cause != nil:
		return fmt.Errorf("download %s: %w", Shown(s.address), cause)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return failed(s.address, "Try again; if it stays, the server or a proxy cuts the connection.",
			"the connection was cut after %s: %w", s.progress(), err)
	}
	return failed(s.address, "Try again; if it stays, check this computer's network.",
		"the connection broke after %s: %w", s.progress(), err)
}

func (s *stream) progress() string {
	if s.size < 0 {
		return fmt.Sprintf("%d bytes", s.read)
	}
	return fmt.Sprintf("%d of %d bytes", s.read, s.size)
}
