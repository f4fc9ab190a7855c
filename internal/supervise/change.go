package supervise

import (
	"context"

	"github.com/smolvm/smolvm/internal/record"
)

// recordChange asks the main loop, whose the record is, to change it. apply may
// not change what the slices and maps of the record hold, but put others there.
type recordChange struct {
	apply func(*record.Record) error
	done  chan error
}

// change writes the record as apply leaves it, or leaves all as it was.
func (s *supervisor) change(apply func(*record.Record) error) error {
	changed := s.rec
	if err := apply(&changed); err != nil {
		return err
	}
	if err := s.book.Write(changed); err != nil {
		return err
	}
	s.rec = changed
	return nil
}

// edit has the main loop of a running sandbox change the record.
func (s *supervisor) edit(ctx context.Context, apply func(*record.Record) error) error {
	c := recordChange{apply, make(chan error, 1)}
	select {
	case s.changes <- c:
		return <-c.done // the loop answers at once
	case <-s.over:
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
