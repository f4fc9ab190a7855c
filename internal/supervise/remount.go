package supervise

import (
	"context"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/wire"
)

// remountTimeout is how long a guest may take to change its mounts; one that
// reboots does so when it is up.
const remountTimeout = time.Minute

// MountChange adds mounts to a sandbox or removes some.
type MountChange struct {
	Add    []record.Mount `json:"add,omitempty"`
	Remove []string       `json:"remove,omitempty"` // paths in the guest
}

// Apply gives the mounts after a change, outer ones first. While a sandbox runs,
// nothing can come or go below another mount: what uses that would be cut off, or
// hidden.
func (c MountChange) Apply(name string, before []record.Mount, live bool) ([]record.Mount, error) {
	after := slices.Clone(before)
	for _, guest := range c.Remove {
		i := slices.IndexFunc(after, func(m record.Mount) bool { return m.Guest == guest })
		if i < 0 {
			return nil, fault.New(fault.NotFound, "See smolvm mount list "+name+".", "nothing is mounted at %s in sandbox %q", guest, name)
		}
		after = slices.Delete(after, i, i+1)
		if inner := below(guest, after); inner != "" && live {
			return nil, fault.New(fault.Conflict, "Remove that first, or stop the sandbox.", "%s has the mount %s in it", guest, inner)
		}
	}
	for _, m := range c.Add {
		switch inner := below(m.Guest, after); {
		case slices.ContainsFunc(after, func(old record.Mount) bool { return old.Guest == m.Guest }):
			return nil, fault.New(fault.Conflict, "Name another path, HOST:GUEST, or remove the one that is there.",
				"something is mounted at %s in sandbox %q", m.Guest, name)
		case inner != "" && live:
			return nil, fault.New(fault.Conflict, "Remove that first, or stop the sandbox.", "%s would hide the mount %s", m.Guest, inner)
		}
		after = append(after, m)
	}
	if len(after) > wire.MaxMounts {
		return nil, fault.New(fault.Usage, "Mount a folder around them.", "%d mounts are more than %d", len(after), wire.MaxMounts)
	}
	slices.SortStableFunc(after, func(x, y record.Mount) int { return strings.Count(x.Guest, "/") - strings.Count(y.Guest, "/") })
	return after, nil
}

// below gives a mount that is within a path, empty when there is none.
func below(guest string, all []record.Mount) string {
	for _, m := range all {
		if rel, err := filepath.Rel(guest, m.Guest); err == nil && rel != "." && filepath.IsLocal(rel) {
			return path.Clean(m.Guest)
		}
	}
	return ""
}

// remountRequest asks the supervisor's main loop for other mounts; it answers once.
type remountRequest struct {
	change MountChange
	answer chan<- error
}

// remounting is one change of the mounts at a time. The main loop uses it.
type remounting struct {
	supervisor *supervisor

	request  *remountRequest // nil: nothing is under way
	records  []record.Mount  // after it
	old, now []wire.Mount
	serial   int64
	late     deadline
}

// requests gives nothing while a change is under way.
func (r *remounting) requests() <-chan remountRequest {
	if r.request != nil {
		return nil
	}
	return r.supervisor.remounts
}

// begin opens what is new and tells the guest.
func (r *remounting) begin(q remountRequest) {
	s := r.supervisor
	records, err := q.change.Apply(s.rec.Name, s.rec.Mounts, true)
	if err == nil {
		r.old = s.mounts.current()
		r.now, err = s.mounts.with(r.old, records)
	}
	if err != nil {
		q.answer <- err
		return
	}
	r.request, r.records = &q, records
	r.serial = s.mounts.set(r.now)
	r.late.within(s.Now(), remountTimeout)
	s.guest.remount()
}

// heard waits for the guest's answer.
func (r *remounting) heard(m wire.Message) {
	switch {
	case r.request == nil || m.Type != wire.Mounted || m.Serial != r.serial:
	case m.Text != "":
		r.finish(fault.New(fault.Usage, "Name another path in the sandbox.", "the sandbox cannot do that: %s", clipLine(plain(m.Text))))
	default:
		r.finish(nil)
	}
}

// finish keeps a change that was made, and takes back one that was not.
func (r *remounting) finish(err error) {
	if r.request == nil {
		return
	}
	s, answer := r.supervisor, r.request.answer
	r.request = nil
	r.late.stop()
	r.late = deadline{}
	if err == nil {
		before := s.rec.Mounts
		s.rec.Mounts = r.records
		if err = s.book.Write(s.rec); err != nil {
			s.rec.Mounts = before
		}
	}
	if err != nil {
		s.mounts.set(r.old)
		s.guest.remount()
		s.mounts.without(r.now, r.old)
	} else {
		s.mounts.without(r.old, r.now)
	}
	answer <- err
}

func errMountLate() error {
	return fault.New(fault.Boot, "See what it prints with smolvm logs.", "the sandbox did not answer within %v", remountTimeout)
}

// remount tells the guest of other mounts; one that boots is told when it is up.
func (g *guest) remount() {
	s, _ := g.look()
	g.mounts.tell(s.link)
}

// news tells a guest that is there; one that boots looks anyway.
func (g *guest) news(m wire.Message) {
	if s, _ := g.look(); s.link != nil {
		_ = s.link.Send(m) // fails with its link
	}
}

// remount passes a change on and answers with what came of it.
func (s *server) remount(conn *net.UnixConn, out *frameWriter, change MountChange) error {
	answer := make(chan error, 1)
	late := time.NewTimer(renameTimeout)
	defer late.Stop()
	select {
	case s.remounts <- remountRequest{change, answer}:
	case <-s.over:
		return s.refuse(conn, out, errStopped)
	case <-late.C:
		return s.refuse(conn, out, fault.New(fault.Conflict, "Try again in a moment.", "the sandbox is just being started, stopped or changed"))
	}
	if err := <-answer; err != nil {
		return s.refuse(conn, out, err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	return out.send(accepted, nil)
}

// Remount changes the mounts of the running sandbox, and returns when its
// programs see that.
func (c *Client) Remount(ctx context.Context, change MountChange) error {
	call, err := c.begin(ctx, request{Op: opMounts, Mounts: &change})
	if err != nil {
		return fmt.Errorf("change the sandbox's mounts: %w", err)
	}
	call.end()
	return nil
}
