package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
)

// Size is what a sandbox has of the host; zero leaves as it is.
type Size struct {
	CPUs                 int
	MemoryMiB, DiskBytes int64
}

// Grow makes the disk of a sandbox that runs larger, at once.
func (m *Manager) Grow(ctx context.Context, name string, size int64) (record.Record, error) {
	c, err := m.Connect(ctx, name)
	if err != nil {
		return record.Record{}, err
	}
	defer c.Close()
	if err := c.Grow(ctx, size); err != nil {
		return record.Record{}, fmt.Errorf("resize sandbox %q: %w", name, err)
	}
	return m.Book.Read(name)
}

// Resize changes the size of a sandbox that does not run, from its next start on.
// A disk only grows. A crash between disk and record leaves the larger disk, which
// the guest uses; resizing again makes the record agree.
func (m *Manager) Resize(name string, size Size) (record.Record, error) {
	return m.change(name, "resize", func(r *record.Record) error {
		if size.DiskBytes > 0 {
			if err := disk.GrowScratch(m.Book.Folder(name).Scratch(), size.DiskBytes); err != nil {
				return err
			}
			r.DiskBytes = size.DiskBytes
		}
		if size.CPUs > 0 {
			r.CPUs = size.CPUs
		}
		if size.MemoryMiB > 0 {
			r.MemoryMiB = size.MemoryMiB
		}
		return nil
	})
}

// change changes the record of a sandbox that can be started and does not run,
// under its lock.
func (m *Manager) change(name, verb string, f func(*record.Record) error) (r record.Record, err error) {
	lock, err := m.Book.Lock(name)
	if fault.CodeOf(err) == fault.Conflict {
		return r, fault.New(fault.Conflict, fmt.Sprintf("Stop it first: smolvm stop %s", name),
			"%s sandbox %q: it is running, or being started", verb, name)
	}
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if r, err = m.Book.Read(name); err != nil {
		return r, err
	}
	if err := f(&r); err != nil {
		return r, fmt.Errorf("%s sandbox %q: %w", verb, name, err)
	}
	return r, m.Book.Write(r)
}
