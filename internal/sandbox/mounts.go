package sandbox

import (
	"context"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/supervise"
)

// Remount adds and removes mounts of a sandbox: at once where it runs, else from
// its next start on. It gives the record with what is mounted then.
func (m *Manager) Remount(ctx context.Context, name string, change supervise.MountChange) (record.Record, error) {
	s, err := m.Get(name)
	if err != nil {
		return record.Record{}, err
	}
	if s.State == Running {
		return m.remountLive(ctx, name, change)
	}
	return m.change(name, "change the mounts of", func(r *record.Record) (err error) {
		r.Mounts, err = change.Apply(name, r.Mounts, false)
		return err
	})
}

// remountLive has the sandbox's supervisor do it.
func (m *Manager) remountLive(ctx context.Context, name string, change supervise.MountChange) (record.Record, error) {
	c, err := m.Connect(ctx, name)
	if fault.CodeOf(err) == fault.NotRunning {
		return record.Record{}, m.busy("change the mounts of", name)
	}
	if err != nil {
		return record.Record{}, err
	}
	defer c.Close()
	if err := c.Remount(ctx, change); err != nil {
		return record.Record{}, err
	}
	return m.Book.Read(name)
}
