package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/sparse"
	"github.com/smolvm/smolvm/internal/vmm"
)

var (
	_ vmm.Snapshotter = (*machine)(nil)
	_ vmm.Restorer    = (*Driver)(nil)
	_ vmm.Meter       = (*machine)(nil)
	_ vmm.Informed    = (*machine)(nil)
)

// The files of a snapshot, beside the one that says of which machine it is.
const (
	stateName  = "state"  // processors and devices, Firecracker's form
	memoryName = "memory" // as long as the guest's memory
)

// snapshotAt is where a machine that is restored finds its snapshot in the cage.
const snapshotAt = "/snapshot"

// snapshotTime bounds writing or loading the guest's memory.
const snapshotTime = 5 * time.Minute

// keptMachine is what a restore has to know besides Firecracker's own files.
type keptMachine struct {
	vmm.Kept
	Token string `json:"token"` // that the guest has in its memory
}

// fits tells why a spec is not of the machine that was kept.
func (k keptMachine) fits(spec vmm.Spec) error {
	if err := k.Kept.Fits(spec); err != nil {
		return err
	}
	if len(k.Token) != 2*tokenBytes {
		return errors.New("it has no token")
	}
	return nil
}

// Pause halts the guest.
func (m *machine) Pause(ctx context.Context) error {
	return m.change(ctx, "pause", paused)
}

// Resume lets the guest go on.
func (m *machine) Resume(ctx context.Context) error {
	return m.change(ctx, "resume", resumed)
}

func (m *machine) change(ctx context.Context, what, state string) error {
	if err := m.client().patch(ctx, "/vm", "the machine's state", vmState{state}); err != nil {
		return fmt.Errorf("%s virtual machine %s: %w", what, m.spec.Name, err)
	}
	return nil
}

// client is the API of the Firecracker that runs now.
func (m *machine) client() *client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.api
}

// Snapshot keeps a paused machine in dir.
func (m *machine) Snapshot(ctx context.Context, dir string) error { return m.keep(ctx, full, dir) }

// keep writes a snapshot of either kind, or leaves nothing of it.
func (m *machine) keep(ctx context.Context, kind, dir string) error {
	if err := m.snapshot(ctx, kind, dir); err != nil {
		left := errors.Join(vmm.RemoveKept(dir, stateName, memoryName), vmm.RemoveKept(m.dir, stateName, memoryName))
		return fmt.Errorf("snapshot virtual machine %s: %w", m.spec.Name, errors.Join(err, left))
	}
	return nil
}

func (m *machine) snapshot(ctx context.Context, kind, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	kept := keptMachine{vmm.Keep(m.spec), m.token}
	var err error
	if kept.ID, err = m.driver.draw(); err != nil {
		return fmt.Errorf("name it: %w", err)
	}
	m.setLineage(lineage{}) // Firecracker forgets what changed as it writes it
	// Firecracker sees no folder but its own: what it wrote is moved.
	err = m.client().put(ctx, "/snapshot/create", "the snapshot", snapshotCreate{
		Type: kind, State: runAt + "/" + stateName, Memory: runAt + "/" + memoryName,
	})
	if err != nil {
		return err
	}
	for _, name := range []string{stateName, memoryName} {
		if err := move(ctx, filepath.Join(m.dir, name), filepath.Join(dir, name)); err != nil {
			return fault.New(fault.Storage, "", "%w", err)
		}
	}
	if err := vmm.WriteKept(dir, kept); err != nil {
		return err
	}
	m.setLineage(lineage{latest: kept.ID})
	return nil
}

// move renames a file, or copies it to another file system, holes and all.
func move(ctx context.Context, from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	if err := sparse.CopyFile(ctx, from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// Restore starts a machine from a snapshot.
func (d *Driver) Restore(ctx context.Context, spec vmm.Spec, dir string) (vmm.Machine, error) {
	var k keptMachine
	err := vmm.ReadKept(dir, &k)
	if err == nil {
		err = k.fits(spec)
	}
	if err != nil {
		return nil, fault.New(fault.Conflict, "", "restore virtual machine %s: the snapshot in %s cannot be used: %w", spec.Name, dir, err)
	}
	return d.start(ctx, spec, dir, k)
}

// load fills a fresh Firecracker with the snapshot and lets the guest go on. One
// that fails ends Firecracker.
func (m *machine) load(ctx context.Context, api *client) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	// Before, as the guest goes on with it, and may reboot at once.
	m.setLineage(lineage{latest: m.origin})
	return api.put(ctx, "/snapshot/load", "the snapshot", snapshotLoad{
		State: snapshotAt + "/" + stateName, Memory: memoryBackend{Type: "File", Path: snapshotAt + "/" + memoryName},
		Track: m.spec.Track, Resume: true,
	})
}

// snapshotBind shows the snapshot in the cage.
func (m *machine) snapshotBind() []cage.Bind {
	if m.from == "" {
		return nil
	}
	return []cage.Bind{{From: m.from, To: snapshotAt}}
}
