package fetch

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/smolvm/smolvm/internal/fetch/oci"
)

// askRegistry finds the blob of a file in an OCI registry and asks for its bytes
// as for those of any other file.
func (s *Source) askRegistry(ctx context.Context, q question) (*Stream, validator, error) {
	found, err := s.locate(ctx, q.address)
	if err != nil {
		return nil, validator{}, err
	}
	client := &http.Client{Transport: found.Transport, CheckRedirect: checkRedirect}
	stream, state, err := s.askHTTP(ctx, q, target{client: client, url: found.URL})
	if err == nil && found.Size >= 0 && stream.Size >= 0 && stream.Size != found.Size {
		stream.Close()
		return nil, validator{}, failed(never, q.address, "Use another mirror.", "the registry has %d bytes of it, and its manifest says %d", stream.Size, found.Size)
	}
	if err == nil && stream.Size < 0 {
		stream.Size = found.Size
	}
	return stream, state, err
}

// locate finds a file within the longest wait allowed.
func (s *Source) locate(ctx context.Context, address string) (oci.Location, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.stall, func() { cancel(errSlow) })
	defer watch.Stop()
	found, err := s.registry.Locate(ctx, address)
	var missing *oci.NotExistError
	switch {
	case err == nil:
		return found, nil
	case errors.As(err, &missing):
		return found, failed(never, address, "Check the reference, and whether the publisher still offers it.", "%w: %w", missing, fs.ErrNotExist)
	}
	return found, s.notAnswered(ctx, address, err)
}
