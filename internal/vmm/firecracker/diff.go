package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sparse"
	"github.com/smolvm/smolvm/internal/vmm"
)

var _ vmm.Differ = (*machine)(nil)

// misplacing are the versions that write the differences of a machine with more than
// oneSlot to wrong places of the file (firecracker issue 5705, mended in 1.14.2): those
// that have x86 memory in several slots and do not go to the beginning of the next.
var misplacing = []string{"1.14.0", "1.14.1"}

// oneSlot is the memory of a machine in MiB up to which it is one piece on x86: above
// begins the gap for devices.
const oneSlot = 3072

// Prepare copies the memory of the latest snapshot to where Firecracker can write. It
// is Firecracker that puts the changed pages in their places there, as it does with a
// file that has the memory's size already. Taking them from a file of their own by its
// holes would depend on the file system: one with blocks larger than a page, or without
// holes, calls data what nobody wrote, and zeros would go over the guest's memory.
func (m *machine) Prepare(ctx context.Context, base string) error {
	err := m.tracks(ctx)
	if err == nil {
		err = m.prepare(ctx, base)
	}
	if err != nil {
		return fmt.Errorf("prepare a snapshot of virtual machine %s from that in %s: %w", m.spec.Name, base, err)
	}
	return nil
}

// tracks tells why this machine's changes are not known.
func (m *machine) tracks(ctx context.Context) error {
	if !m.spec.Track {
		return fault.New(fault.Conflict, "", "it was started without noting what its guest changes")
	}
	var i instance
	if err := m.client().get(ctx, "/", "the machine", &i); err != nil {
		return err
	}
	if m.spec.Arch == "amd64" && m.spec.MemoryMiB > oneSlot && slices.Contains(misplacing, i.Version) {
		return fault.New(fault.Host, "Take a newer Firecracker, or full snapshots.",
			"Firecracker %s damages differences of machines with more than %d MiB of memory", i.Version, oneSlot)
	}
	return nil
}

func (m *machine) prepare(ctx context.Context, base string) error {
	var k keptMachine
	err := vmm.ReadKept(base, &k)
	if err == nil {
		err = k.Base(m.latest())
	}
	if err != nil {
		return fault.New(fault.Conflict, "Take a full snapshot.", "%w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	if err := m.copyMemory(ctx, base); err != nil {
		return fault.New(fault.Storage, "", "copy its memory: %w", err)
	}
	return m.ready(k.ID)
}

// copyMemory leaves a copy, or nothing. Firecracker would empty a file of another size,
// and write the changes alone.
func (m *machine) copyMemory(ctx context.Context, base string) error {
	to := filepath.Join(m.dir, memoryName)
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := sparse.CopyFile(ctx, filepath.Join(base, memoryName), to); err != nil {
		return err
	}
	info, err := os.Lstat(to)
	if err == nil && info.Size() != m.spec.MemoryMiB<<20 {
		err = errors.Join(fmt.Errorf("it has %d bytes, the machine %d MiB", info.Size(), m.spec.MemoryMiB), os.Remove(to))
	}
	return err
}

// Diff keeps a paused machine in dir, by way of the copy that was prepared.
func (m *machine) Diff(ctx context.Context, dir string) error {
	if !m.prepared() {
		return fault.New(fault.Conflict, "", "snapshot virtual machine %s: no copy of its latest snapshot is prepared", m.spec.Name)
	}
	return m.keep(ctx, diff, dir)
}

// lineage is what is known about the machine's snapshots. All of it is over when its
// guest reboots: what changes is noted by the Firecracker that runs.
type lineage struct {
	latest   string // ID of the snapshot since which changes are noted; empty: none
	prepared bool   // a copy of its memory is where Firecracker can write
}

func (m *machine) latest() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.line.latest
}

func (m *machine) prepared() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.line.prepared
}

// ready notes that the memory of a snapshot is prepared, unless the guest has rebooted
// since.
func (m *machine) ready(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.line.latest != id {
		return fault.New(fault.Conflict, "Take a full snapshot.", "the guest rebooted meanwhile")
	}
	m.line.prepared = true
	return nil
}

func (m *machine) setLineage(l lineage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.line = l
}
