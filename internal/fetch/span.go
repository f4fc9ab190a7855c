package fetch

import (
	"context"
	"io"
)

// Span is a part of a file. To is exclusive; 0 or less: to the end. The zero
// Span is the whole file.
type Span struct{ From, To int64 }

// Stream delivers bytes of one file from one place. Its Read says in its errors
// how far it came. One goroutine may read it; Close may be called at any moment.
type Stream struct {
	Place string // the base address it came from, for messages and for Mirrors.Strike
	From  int64  // first byte it delivers: Span.From, or 0 where the place knows no ranges
	Size  int64  // of the whole file, -1: unknown

	body io.ReadCloser
}

// Read passes bytes on.
func (s *Stream) Read(p []byte) (int, error) { return s.body.Read(p) }

// Close ends the request.
func (s *Stream) Close() error { return s.body.Close() }

// OpenSpan starts to deliver a span of the file at address, in one attempt. A
// place without ranges delivers the whole file: see Stream.From.
func (s *Source) OpenSpan(ctx context.Context, address string, _ Span) (*Stream, error) {
	body, size, err := s.Open(ctx, address)
	if err != nil {
		return nil, err
	}
	return &Stream{Place: Shown(Beside(address, "")), Size: size, body: body}, nil
}
