package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/fetch/oci"
)

// Push publishes files under an OCI reference (oci://host[:port]/repo[:tag]):
// first every blob that is not there, at last the OCI manifest that names them.
// A push that was cut is tried again and goes on with the first blob that is
// missing. Progress hears of the bytes of each file, from one goroutine at a
// time; it may be nil.
func (s *Source) Push(ctx context.Context, reference string, files []oci.File, progress func(file string, done, total int64)) error {
	for failures := 1; ; failures++ {
		err := s.registry.Push(ctx, reference, files, s.stall, progress)
		if err == nil {
			return nil
		}
		err = s.pushFailed(ctx, reference, err)
		t := troubleOf(err)
		if t.remedy != again || t.after > patient.longest || failures >= patient.tries {
			return err
		}
		if err := s.wait(ctx, max(backOff(failures, s.jitter()), t.after)); err != nil {
			return fmt.Errorf("push to %s: %w", reference, err)
		}
	}
}

// pushFailed explains a push as a download's failure is explained, but for its
// verb. What is neither the registry's fault nor the network's is a local file's.
func (s *Source) pushFailed(ctx context.Context, reference string, err error) error {
	var (
		status  *oci.StatusError
		network *url.Error
	)
	switch {
	case context.Cause(ctx) != nil:
		return fmt.Errorf("push to %s: %w", reference, context.Cause(ctx))
	case errors.Is(err, oci.ErrReference):
		return fault.New(fault.Usage, "Write oci://HOST[:PORT]/REPOSITORY[:TAG].", "push to %s: %w", reference, err)
	case errors.As(err, &status), errors.As(err, &network), errors.Is(err, oci.ErrInvalid):
		t := troubleOf(s.notAnswered(ctx, reference, err))
		return fault.New(fault.Network, pushHint(err), "%w", &trouble{remedy: t.remedy, after: t.after, err: err})
	}
	return err
}

// Names are the files of the release under an OCI reference. Nothing there is
// fs.ErrNotExist.
func (s *Source) Names(ctx context.Context, reference string) ([]string, error) {
	names, err := s.registry.Names(ctx, reference)
	if err != nil {
		return nil, s.notAnswered(ctx, reference, err)
	}
	return names, nil
}

func pushHint(err error) string {
	var status *oci.StatusError
	switch {
	case errors.As(err, &status) && (status.Code == http.StatusUnauthorized || status.Code == http.StatusForbidden):
		return "Log in with docker login (or podman login) as somebody who may write there."
	case errors.Is(err, oci.ErrInvalid):
		return "Check that a registry answers there."
	}
	return hintFor(err)
}
