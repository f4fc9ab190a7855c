package fetch

import (
	"context"
	"fmt"
	"strings"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch/oci"
)

// Span is a part of a file. To is exclusive; 0 or less: to the end. The zero
// Span is the whole file.
type Span struct{ From, To int64 }

// open is whether the span goes to the end of the file.
func (s Span) open() bool { return s.To <= 0 }

// whole is whether it is the whole file, whatever its size.
func (s Span) whole() bool { return s.From == 0 && s.open() }

// length is how many bytes of a file of a size it has, -1 where the file is too
// short to hold it.
func (s Span) length(size int64) int64 {
	end := s.To
	if s.open() {
		end = size
	}
	if s.From < 0 || s.From > end || end > size {
		return -1
	}
	return end - s.From
}

// header is the value of HTTP's Range.
func (s Span) header() string {
	if s.open() {
		return fmt.Sprintf("bytes=%d-", s.From)
	}
	return fmt.Sprintf("bytes=%d-%d", s.From, s.To-1)
}

func (s Span) String() string {
	if s.open() {
		return fmt.Sprintf("the bytes from %d on", s.From)
	}
	return fmt.Sprintf("the bytes %d to %d", s.From, s.To-1)
}

// OpenSpan starts to deliver a span of the file at address, in one attempt. A
// place without ranges delivers the whole file: see Stream.From.
func (s *Source) OpenSpan(ctx context.Context, address string, span Span) (*Stream, error) {
	stream, _, err := s.ask(ctx, question{address: address, span: span})
	return stream, err
}

// question is one attempt to get a span of a file.
type question struct {
	address string
	span    Span
	known   validator // what the same place said of the file before
}

// ask makes one attempt. The validator is what the place says of the file.
func (s *Source) ask(ctx context.Context, q question) (*Stream, validator, error) {
	if q.span.From < 0 || !q.span.open() && q.span.From >= q.span.To {
		return nil, validator{}, fault.New(fault.Internal, "", "download %s: %v: no such span", Shown(q.address), q.span)
	}
	scheme, rest, ok := strings.Cut(q.address, "://")
	switch {
	case !ok:
		return s.askFile(ctx, q, q.address)
	case scheme == "file":
		name, err := filePath(q.address)
		if err != nil {
			return nil, validator{}, err
		}
		return s.askFile(ctx, q, name)
	case scheme == "http" || scheme == "https":
		return s.askHTTP(ctx, q, target{client: s.client, url: q.address})
	case scheme == oci.Scheme:
		return s.askRegistry(ctx, q)
	}
	return nil, validator{}, fault.New(fault.Usage, "Use a path, file://, http://, https:// or oci://.",
		"open %s://%s: this kind of address is not supported", scheme, rest)
}

func (s *Source) askFile(ctx context.Context, q question, name string) (*Stream, validator, error) {
	stream, err := s.openFile(ctx, q.address, name, q.span)
	return stream, validator{}, err
}

// shorter refuses a file that does not hold the span.
func shorter(address string, size int64, span Span) error {
	return failed(never, address, "Check the address: this is not the file that SmolVM looks for.",
		"it has only %d bytes, and %v were asked for", size, span)
}
