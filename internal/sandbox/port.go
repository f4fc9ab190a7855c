package sandbox

import (
	"context"
	"fmt"
	"slices"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/supervise"
)

// Ports tells what is forwarded, and where asked what listens in the guest. Of a
// sandbox that does not run nothing listens.
func (m *Manager) Ports(ctx context.Context, name string, listening bool) (supervise.PortReport, error) {
	report, err := m.askPorts(ctx, name, supervise.PortRequest{Listening: listening})
	if fault.CodeOf(err) != fault.NotRunning {
		return report, err
	}
	r, err := m.Book.Read(name)
	for _, f := range r.Forwards {
		report.Forwards = append(report.Forwards, supervise.PortState{Forward: f, Failed: "the sandbox is not running"})
	}
	return report, err
}

// Forward adds a forward, at once where the sandbox runs, and gives it with the
// port it got.
func (m *Manager) Forward(ctx context.Context, name string, f port.Forward) (port.Forward, error) {
	report, err := m.askPorts(ctx, name, supervise.PortRequest{Add: &f})
	if fault.CodeOf(err) != fault.NotRunning {
		return report.Added, err
	}
	return f, m.edit(name, func(r *record.Record) error {
		now, standing := port.Standing(r.Displaced, f)
		if standing && f.Any {
			return nil // its port is tried at the next start anyway
		}
		others := slices.DeleteFunc(slices.Clone(r.Forwards), func(o port.Forward) bool { return o.Same(f) || o.Same(now) })
		r.Forwards = append(others, f)
		r.Displaced = port.Displace(r.Displaced, r.Forwards, f, f)
		return nil
	})
}

// Unforward removes a forward. Connections over it go on.
func (m *Manager) Unforward(ctx context.Context, name string, f port.Forward) error {
	_, err := m.askPorts(ctx, name, supervise.PortRequest{Remove: &f})
	if fault.CodeOf(err) != fault.NotRunning {
		return err
	}
	return m.edit(name, func(r *record.Record) error {
		r.Forwards = slices.DeleteFunc(slices.Clone(r.Forwards), f.Same)
		r.Displaced = port.Displace(r.Displaced, r.Forwards, f, f)
		return nil
	})
}

// askPorts fails with NotRunning where there is no supervisor.
func (m *Manager) askPorts(ctx context.Context, name string, r supervise.PortRequest) (supervise.PortReport, error) {
	c, err := m.Connect(ctx, name)
	if err != nil {
		return supervise.PortReport{}, err
	}
	defer c.Close()
	return c.Port(ctx, r)
}

// edit changes the record of a sandbox that does not run, under its lock.
func (m *Manager) edit(name string, apply func(*record.Record) error) error {
	lock, err := m.Book.Lock(name)
	if fault.CodeOf(err) == fault.Conflict {
		return m.busy("change", name)
	}
	if err != nil {
		return err
	}
	r, err := m.Book.Read(name)
	if err == nil {
		err = apply(&r)
	}
	if err == nil {
		err = m.Book.Write(r)
	}
	if released := lock.Release(); err == nil && released != nil {
		err = fmt.Errorf("change sandbox %q: %w", name, released)
	}
	return err
}
