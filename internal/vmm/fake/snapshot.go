package fake

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
)

var _ vmm.Differ = (*machine)(nil)

// gate holds a paused guest back wherever it talks to the host.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // closed when the guest goes on; nil: it runs
}

// pass waits until the guest runs, or the machine ends.
func (g *gate) pass(done <-chan struct{}) {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed == nil {
		return
	}
	select {
	case <-closed:
	case <-done:
	}
}

func (g *gate) paused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed != nil
}

// halting is the guest's end of a link, through which a paused guest says nothing.
type halting struct {
	net.Conn
	guest *Guest
}

func (h *halting) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.guest.gate.pass(h.guest.done)
	return n, err
}

func (h *halting) Write(p []byte) (int, error) {
	h.guest.gate.pass(h.guest.done)
	return h.Conn.Write(p)
}

// Remember keeps what the guest has in its memory: all that a snapshot has of it.
func (g *Guest) Remember(memory []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.memory = slices.Clone(memory)
}

// Memory is what was remembered, also before the machine was restored; nil: nothing.
func (g *Guest) Memory() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.memory)
}

// Pause holds the guest back.
func (m *machine) Pause(context.Context) error {
	g := &m.guest.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
	return nil
}

// Resume lets the guest go on.
func (m *machine) Resume(context.Context) error {
	g := &m.guest.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
	return nil
}

// keptMachine is a snapshot.
type keptMachine struct {
	vmm.Kept
	Memory []byte `json:"memory"`
}

// Snapshot keeps what the guest remembers, and ends its link.
func (m *machine) Snapshot(_ context.Context, dir string) error {
	g := m.guest
	if !g.gate.paused() {
		return fault.New(fault.Conflict, "", "snapshot virtual machine %s: it runs: pause it first", g.Spec.Name)
	}
	k := keptMachine{vmm.Keep(g.Spec), g.Memory()}
	k.ID = rand.Text()
	if err := vmm.WriteKept(dir, k); err != nil {
		return fmt.Errorf("snapshot virtual machine %s: %w", g.Spec.Name, errors.Join(err, vmm.RemoveKept(dir)))
	}
	m.mu.Lock()
	m.latest, m.prepared = k.ID, false
	m.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		_ = g.open.Close()
		g.open = nil
	}
	return nil
}

// Prepare takes note of the latest snapshot. A fake machine's reboots are its guest's
// own affair: they change nothing here.
func (m *machine) Prepare(_ context.Context, base string) error {
	var k keptMachine
	err := vmm.ReadKept(base, &k)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		err = k.Base(m.latest)
	}
	if !m.guest.Spec.Track {
		err = errors.New("it was started without noting what its guest changes")
	}
	if err != nil {
		return fault.New(fault.Conflict, "", "prepare a snapshot of virtual machine %s from that in %s: %w", m.guest.Spec.Name, base, err)
	}
	m.prepared = true
	return nil
}

// Diff is as large as any snapshot of a fake machine.
func (m *machine) Diff(ctx context.Context, dir string) error {
	m.mu.Lock()
	prepared := m.prepared
	m.mu.Unlock()
	if !prepared {
		return fault.New(fault.Conflict, "", "snapshot virtual machine %s: nothing is prepared", m.guest.Spec.Name)
	}
	return m.Snapshot(ctx, dir)
}

// Restore starts a machine whose guest remembers what the kept one did.
func (d *Driver) Restore(ctx context.Context, spec vmm.Spec, dir string) (vmm.Machine, error) {
	var k keptMachine
	err := vmm.ReadKept(dir, &k)
	if err == nil {
		err = k.Fits(spec)
	}
	if err != nil {
		return nil, fault.New(fault.Conflict, "", "restore virtual machine %s: the snapshot in %s cannot be used: %w", spec.Name, dir, err)
	}
	return d.start(ctx, spec, k)
}
