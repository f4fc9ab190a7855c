package sandbox

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/smolvm/smolvm/internal/disk"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sparse"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/wire"
)

// Kept is a snapshot: the record of the sandbox as it was, under the snapshot's name,
// made at Created, and what it takes on this computer.
type Kept struct {
	record.Record
	OnDisk int64  // bytes
	Broken string // why it can only be removed; empty: it can be restored
}

// Snapshot keeps a running sandbox under a name: its memory, devices and disk. The
// sandbox goes on; whatever was connected to it has to connect again. It is there when
// Snapshot returns, also after a power loss, or not at all.
func (m *Manager) Snapshot(ctx context.Context, from, name string, secrets bool) (kept Kept, err error) {
	source, err := m.Get(from)
	if err != nil {
		return kept, err
	}
	c, err := m.Connect(ctx, from)
	if err != nil {
		return kept, err
	}
	defer c.Close()
	book, err := record.OpenSnapshots(m.Home)
	if err != nil {
		return kept, err
	}
	lock, err := book.Create(name)
	if err != nil {
		return kept, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("keep sandbox %q as snapshot %q: %w", from, name, err), lock.Remove())
		}
	}()
	if kept.Record, err = m.snapshotOf(source.Record, name, secrets); err != nil {
		return kept, err
	}
	if err := book.Write(kept.Record); err != nil {
		return kept, err
	}
	folder := book.Folder(name)
	if err := c.Snapshot(ctx, supervise.Snapshot{Dir: folder.Dir(), Secrets: secrets}); err != nil {
		return kept, err
	}
	if err := syncFiles(folder.Dir()); err != nil {
		return kept, fault.New(fault.Storage, "", "write it to the disk: %w", disk.Full(err))
	}
	kept.State = record.Created
	if err := book.Write(kept.Record); err != nil {
		return kept, err
	}
	kept.OnDisk = folder.Allocated()
	return kept, lock.Release()
}

// snapshotOf is the record of a snapshot in the making.
func (m *Manager) snapshotOf(source record.Record, name string, secrets bool) (record.Record, error) {
	id, err := m.newID()
	if err != nil {
		return record.Record{}, err
	}
	r := forkOf(source, name)
	r.ID, r.Created = id, m.Now().UTC()
	r.Snapshot = &record.Snapshot{Of: source.Name, Dialect: wire.Dialect, Secrets: secrets}
	return r, nil
}

// newID is an instance id.
func (m *Manager) newID() (string, error) {
	id := make([]byte, idLen)
	if _, err := io.ReadFull(m.Rand, id); err != nil {
		return "", fmt.Errorf("make an instance id: %w", err)
	}
	return "i-" + hex.EncodeToString(id), nil
}

// syncFiles waits until all files below a folder, and their names, are on the disk.
func syncFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// Restore makes a sandbox that runs on from a snapshot, which stays, for any number of
// further ones. f has one name.
func (m *Manager) Restore(ctx context.Context, snapshot string, f Fork) (r record.Record, err error) {
	book, err := record.OpenSnapshots(m.Home)
	if err != nil {
		return r, err
	}
	lock, err := book.Share(snapshot)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	kept, err := usable(book, snapshot)
	if err != nil {
		return r, err
	}
	name := f.Names[0]
	if err := m.reserveFork(kept, name, f); err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("restore snapshot %q: %w", snapshot, refused(err, snapshot)), m.discard(f.Names))
		}
	}()
	folder := book.Folder(snapshot)
	if err := sparse.CopyFile(ctx, folder.Scratch(), m.Book.Folder(name).Scratch()); err != nil {
		return r, fault.New(fault.Storage, "", "copy the disk: %w", disk.Full(err))
	}
	return m.startFork(ctx, name, folder.Dir(), f.Idle)
}

// refused adds what to do to the word of a monitor that cannot run a snapshot, such as
// another version's.
func refused(err error, snapshot string) error {
	if fault.CodeOf(err) != fault.Conflict || fault.HintOf(err) != "" {
		return err
	}
	return fault.New(fault.Conflict, "If that cannot be mended, remove it: smolvm snapshot rm "+snapshot, "%w", err)
}

// usable is the record of a snapshot that can be restored.
func usable(book *record.Book, name string) (record.Record, error) {
	r, err := book.Read(name)
	if err != nil {
		return r, err
	}
	if why := broken(r); why != "" {
		return r, fault.New(fault.Conflict, "Remove it: smolvm snapshot rm "+name, "snapshot %q cannot be restored: %s", name, why)
	}
	return r, nil
}

// broken says why a snapshot can only be removed.
func broken(r record.Record) string {
	switch {
	case r.Snapshot == nil || r.State != record.Created:
		return "it was not finished"
	case r.Snapshot.Dialect != wire.Dialect:
		return fmt.Sprintf("the guest agent in it speaks version %d, this smolvm version %d", r.Snapshot.Dialect, wire.Dialect)
	}
	return ""
}

// Snapshots lists the snapshots, in the order of their names. One whose record cannot be
// read is broken.
func (m *Manager) Snapshots() ([]Kept, error) {
	book, err := record.OpenSnapshots(m.Home)
	if err != nil {
		return nil, err
	}
	names, err := book.Names()
	if err != nil {
		return nil, err
	}
	var all []Kept
	for _, name := range names {
		r, err := book.Read(name)
		if fault.CodeOf(err) == fault.NotFound || errors.Is(err, record.ErrIncomplete) || err == nil && r.State == record.Creating && book.Held(name) {
			continue // removed meanwhile, or just being made
		}
		k := Kept{Record: r, OnDisk: book.Folder(name).Allocated(), Broken: broken(r)}
		if err != nil {
			k.Name, k.Broken = name, err.Error()
		}
		all = append(all, k)
	}
	return all, nil
}

// GetSnapshot is one of them.
func (m *Manager) GetSnapshot(name string) (Kept, error) {
	book, err := record.OpenSnapshots(m.Home)
	if err != nil {
		return Kept{}, err
	}
	r, err := usable(book, name)
	return Kept{Record: r, OnDisk: book.Folder(name).Allocated()}, err
}

// RemoveSnapshot removes a snapshot, broken or not. It fails with Conflict while it is
// being made or restored; sandboxes that were restored of it need it no longer.
func (m *Manager) RemoveSnapshot(name string) error {
	book, err := record.OpenSnapshots(m.Home)
	if err != nil {
		return err
	}
	return book.Remove(name)
}

// recoverSnapshots removes what interrupted snapshots and removals left.
func (m *Manager) recoverSnapshots() error {
	book, err := record.OpenSnapshots(m.Home)
	if err != nil {
		return err
	}
	names, err := book.Names()
	if err != nil {
		return err
	}
	errs := []error{book.Sweep()}
	unfinished := func(name string) bool {
		r, err := book.Read(name)
		return errors.Is(err, record.ErrIncomplete) || err == nil && r.State == record.Creating
	}
	for _, name := range names {
		errs = append(errs, book.RemoveIf(name, unfinished))
	}
	return errors.Join(errs...)
}
