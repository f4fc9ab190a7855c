package supervise

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
)

// finish ends everything that is left, records the end, and gives the sandbox
// up: after it nothing of this process touches the sandbox's folder. A sandbox
// whose first start did not get to the commit is removed.
func (s *supervisor) finish(committed bool, reason error) error {
	close(s.over)
	if s.machine != nil {
		_ = s.machine.Kill()
	}
	if s.ports != nil {
		s.ports.table.Close()
	}
	s.running.Wait()
	if err := s.bounds.close(); err != nil {
		s.log.Warn("remove the machine's control group", "error", err)
	}
	if s.mounts != nil {
		reason = errors.Join(reason, s.mounts.server.Close())
	}
	if s.console != nil {
		s.console.close()
	}
	reason = errors.Join(reason, s.closeNetwork(committed))
	defer s.shut() // last: until here a stop is answered when it is true
	defer close(s.released)
	if s.rec.State == record.Creating && !committed {
		return errors.Join(reason, s.lock.Remove())
	}
	s.rec.Pid, s.rec.VMMPid = 0, 0
	if s.troubles != nil {
		s.rec.Troubles = s.troubles.list()
	}
	if committed {
		s.rec.Stopped = s.Now().UTC()
	}
	if reason != nil && fault.CodeOf(reason) != fault.Interrupted {
		s.rec.LastError = clipText(plain(reason.Error()))
	}
	return errors.Join(reason, remove(s.folder.Initrd()), s.book.Write(s.rec), s.lock.Retire())
}

// shut closes the control socket.
func (s *supervisor) shut() {
	if s.server != nil {
		s.server.shut()
	}
}

// maxLastError bounds the error kept in the record in bytes.
const maxLastError = 4 << 10

func clipText(text string) string { return text[:min(len(text), maxLastError)] }

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// deadline is the earliest of several.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

// within moves the deadline to now plus d, never to later than it was.
func (d *deadline) within(now time.Time, after time.Duration) {
	at := now.Add(after)
	if d.timer != nil && !at.Before(d.at) {
		return
	}
	d.stop()
	d.at, d.timer = at, time.NewTimer(after)
}

// over gets a value when the deadline has passed; never without a deadline.
func (d *deadline) over() <-chan time.Time {
	if d.timer == nil {
		return nil
	}
	return d.timer.C
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

// maxLog bounds the supervisor's own log in bytes: a guest can make it write.
const maxLog = 1 << 20

// limited passes on the first bytes written to it. It never fails.
type limited struct {
	mu   sync.Mutex
	out  io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil || l.left <= 0 {
		return len(p), nil
	}
	line := p
	if l.left -= len(p); l.left <= 0 {
		line = []byte("the log is full\n")
	}
	if _, err := l.out.Write(line); err != nil {
		l.left = 0
	}
	return len(p), nil
}
