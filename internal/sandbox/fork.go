package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sparse"
	"github.com/smolvm/smolvm/internal/supervise"
)

// Fork says what sandboxes to make of a running one.
type Fork struct {
	Names []string // at least one
	// Secrets says that credentials in the memory of the running one may be in that of
	// the forks.
	Secrets bool
	Env     map[string]string // as in Spec
	CACerts []string
	Idle    time.Duration // as in StartOptions
}

// Fork makes sandboxes that run on from where a running one is: with the same memory,
// programs and disk, and keys, a machine-id and random numbers of their own. The
// running one goes on; whatever was connected to it has to connect again. Either all
// forks are made or none.
func (m *Manager) Fork(ctx context.Context, from string, f Fork) (all []record.Record, err error) {
	source, err := m.Get(from)
	if err != nil {
		return nil, err
	}
	c, err := m.Connect(ctx, from)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer func() {
		if err != nil {
			all, err = nil, errors.Join(fmt.Errorf("fork sandbox %q: %w", from, err), m.discard(f.Names))
		}
	}()
	for i, name := range f.Names {
		if err := m.reserveFork(source.Record, name, f); err != nil {
			f.Names = f.Names[:i] // what follows is not ours
			return nil, err
		}
	}
	dir := m.Book.Folder(f.Names[0]).Snapshot()
	if err := m.keep(ctx, c, dir, f); err != nil {
		return nil, err
	}
	for _, name := range f.Names {
		r, err := m.startFork(ctx, name, dir, f.Idle)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, fault.New(fault.Storage, "", "remove the snapshot: %w", err)
	}
	return all, nil
}

// startFork starts a sandbox that runs on from a snapshot.
func (m *Manager) startFork(ctx context.Context, name, dir string, idle time.Duration) (record.Record, error) {
	done := event.Span(m.Sink, m.Now, event.Boot, name)
	if _, err := m.spawn(ctx, name, supervise.Order{Timeout: defaultTimeout, Idle: idle, From: dir}); err != nil {
		return record.Record{}, err
	}
	done(0)
	return m.Book.Read(name)
}

// reserveFork makes the folder, keys and seed of a fork: until its first start has become
// ready it belongs to this process.
func (m *Manager) reserveFork(source record.Record, name string, f Fork) error {
	lock, err := m.Book.Create(name)
	if err != nil {
		return err
	}
	if err := m.writeFork(source, name, f); err != nil {
		return errors.Join(err, lock.Remove())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh[name] = lock
	return nil
}

func (m *Manager) writeFork(source record.Record, name string, f Fork) error {
	id, err := m.newID()
	if err != nil {
		return err
	}
	r := forkOf(source, name)
	r.ID, r.Created = id, m.Now().UTC()
	if err := m.Book.Write(r); err != nil {
		return err
	}
	folder := m.Book.Folder(name)
	keys, err := m.writeKeys(folder, name)
	if err != nil {
		return err
	}
	return m.writeSeed(folder, Spec{Name: name, Mode: r.Mode, Env: f.Env, CACerts: f.CACerts, Services: r.Services}, r.ID, keys)
}

// forkOf is the record of a fork: all that the machine is, and nothing of the other's
// life. The directory and the forwarded ports stay with the other. Where credentials
// are taken from that are kept from it goes along, for the fork's next start.
func forkOf(source record.Record, name string) record.Record {
	r := source
	r.Name, r.RenameTo, r.Directory, r.Forwards, r.Displaced = name, "", "", nil, nil
	r.State, r.LastError, r.Troubles, r.Boot, r.Snapshot = record.Creating, "", nil, nil, nil
	r.Started, r.Stopped, r.StoppedIdle, r.Pid, r.VMMPid = time.Time{}, time.Time{}, false, 0, 0
	return r
}

// keep takes the snapshot and gives each fork its copy of the disk.
func (m *Manager) keep(ctx context.Context, c *supervise.Client, dir string, f Fork) error {
	done := event.Span(m.Sink, m.Now, event.Scratch, f.Names[0])
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fault.New(fault.Storage, "", "make the folder of a snapshot: %w", err)
	}
	if err := c.Snapshot(ctx, supervise.Snapshot{Dir: dir, Secrets: f.Secrets}); err != nil {
		return err
	}
	scratch := filepath.Join(dir, supervise.SnapshotScratch)
	for _, name := range f.Names[1:] {
		if err := sparse.CopyFile(ctx, scratch, m.Book.Folder(name).Scratch()); err != nil {
			return fault.New(fault.Storage, "", "copy the disk: %w", disk.Full(err))
		}
	}
	if err := os.Rename(scratch, m.Book.Folder(f.Names[0]).Scratch()); err != nil {
		return fault.New(fault.Storage, "", "take the disk over: %w", err)
	}
	done(0)
	return nil
}

// discard removes forks of which not all could be made.
func (m *Manager) discard(names []string) error {
	ctx := context.Background() // also when the fork was interrupted
	var errs []error
	for _, name := range slices.Backward(names) {
		if err := m.Delete(ctx, name, DeleteOptions{Force: true}); err != nil && fault.CodeOf(err) != fault.NotFound {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
