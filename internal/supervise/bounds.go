package supervise

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/vmm"
)

// bounds is the control group of the machine's monitor; the zero value is none.
type bounds struct {
	base   *cgroup.Base
	group  *cgroup.Group
	memory uint64 // that the group allows, in bytes
}

// enclose makes the control group that the monitor is started in, and notes what it
// allows. Where there is none the monitor has the limits of its cage alone, and the
// record says why.
func (s *supervisor) enclose(driver vmm.Driver, spec vmm.Spec) *os.File {
	s.rec.Limits = nil
	estimator, ok := driver.(vmm.Estimator)
	if !ok {
		return nil
	}
	limits, err := s.bounds.make(s.Groups, s.rec.ID, estimator.Needs(spec))
	s.rec.Limits = &limits
	if err == nil {
		return s.bounds.group.Folder()
	}
	limits.Why = clipLine(strings.ReplaceAll(plain(err.Error()), "\n", " "))
	if s.order.Unscoped != "" {
		limits.Why = s.order.Unscoped
	}
	return nil
}

// make makes a group for what a monitor needs.
func (b *bounds) make(groups cgroup.System, name string, needs vmm.Needs) (record.Limits, error) {
	base, err := groups.Find()
	if err != nil {
		return record.Limits{}, err
	}
	if err := base.Open(); err != nil {
		return record.Limits{}, err
	}
	b.base = base
	allowed := base.Within(cgroup.Limits{Memory: needs.Memory, Processes: needs.Processes, CPUs: needs.CPUs})
	if b.group, err = base.Make(name, allowed); err != nil {
		return record.Limits{}, err
	}
	b.memory = allowed.Memory
	limits := record.Limits{Group: true, Memory: allowed.Memory, Processes: allowed.Processes, CPUs: allowed.CPUs}
	if missing := cgroup.Missing(base.Controllers); len(missing) > 0 {
		limits.Why = "there is no controller for " + strings.Join(missing, " and ")
	}
	return limits, nil
}

// explain puts the end of a machine down to want of memory where the kernel killed its
// monitor for that.
func (b *bounds) explain(end error) error {
	if end == nil || b.group == nil {
		return end
	}
	killed, own, err := b.group.Starved()
	switch {
	case err != nil:
		return errors.Join(end, err)
	case !killed:
		return end
	case own:
		return fault.New(fault.Boot, "Start it again. If that repeats, give it more memory with smolvm resize.",
			"its machine monitor was killed: it went over the %d MiB of memory, the guest's included, that its control group allows: %w", b.memory>>20, end)
	}
	return fault.New(fault.Host, "Free some memory, or give sandboxes less of it with smolvm resize.",
		"its machine monitor was killed: this computer, or this login, has no more memory: %w", end)
}

// close removes the group, whose processes have ended.
func (b *bounds) close() error {
	var errs error
	if b.group != nil {
		errs = b.group.Remove()
	}
	if b.base != nil {
		errs = errors.Join(errs, b.base.Close())
	}
	if errs != nil {
		return fmt.Errorf("give the control group back: %w", errs)
	}
	return nil
}
