// Package fake is a vmm.Driver without virtual machines, for tests of what
// stands above one: the guest is a function of the test's, run in this process,
// and every failure a real driver may have can be brought about.
//
// Nothing is kept on disk, and nothing outlives Machine.Kill but what the
// guest function itself leaves.
package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/vmm"
)

// Driver starts fake machines.
type Driver struct {
	// Guest runs as the machine's guest. When it returns nil the machine has
	// powered off; an error is how the machine died. It must return soon after
	// g.Done is closed.
	Guest func(g *Guest) error
	// Fail, when set, may refuse a start.
	Fail func(vmm.Spec) error
	// Slow, when set, holds every start back until it is closed.
	Slow <-chan struct{}
}

var _ vmm.Restorer = (*Driver)(nil)

// Needs are those of no real monitor.
func (d *Driver) Needs(s vmm.Spec) vmm.Needs {
	return vmm.Needs{Memory: uint64(s.MemoryMiB) << 20, Processes: 64, CPUs: s.CPUs}
}

// Link makes the guest of a driver that opens its link once and serves it.
func Link(serve func(net.Conn)) func(*Guest) error {
	return func(g *Guest) error {
		conn, err := g.Open()
		if err != nil {
			return nil // killed before it came up
		}
		defer func() { _ = conn.Close() }()
		serve(conn)
		return nil
	}
}

// Guest is what a guest function has of its machine.
type Guest struct {
	Spec vmm.Spec

	done  chan struct{}
	links chan net.Conn
	mu    sync.Mutex
	open  net.Conn // the guest's end, nil between sessions

	gate   gate
	memory []byte
}

// Done is closed when the machine is to end.
func (g *Guest) Done() <-chan struct{} { return g.done }

// Console writes to the machine's serial console.
func (g *Guest) Console(text string) { _, _ = io.WriteString(g.Spec.Console, text) }

// Open opens the link port and returns the guest's end. A session that was
// still open ends, as it does when a guest reboots. It fails once the machine ends.
func (g *Guest) Open() (net.Conn, error) {
	ours, theirs := net.Pipe()
	g.gate.pass(g.done)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		_ = g.open.Close()
	}
	select {
	case old := <-g.links: // never asked for
		_ = old.Close()
	default:
	}
	select {
	case <-g.done:
		return nil, net.ErrClosed
	default:
	}
	g.open = ours
	g.links <- theirs
	return &halting{ours, g}, nil
}

// Start runs the guest function in a goroutine the machine owns.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	return d.start(ctx, spec, keptMachine{})
}

func (d *Driver) start(ctx context.Context, spec vmm.Spec, k keptMachine) (vmm.Machine, error) {
	if err := d.mayStart(ctx, spec); err != nil {
		return nil, fmt.Errorf("start virtual machine %s: %w", spec.Name, err)
	}
	m := &machine{
		guest: &Guest{Spec: spec, done: make(chan struct{}), links: make(chan net.Conn, 1), memory: k.Memory},
		ended: make(chan struct{}), latest: k.ID,
	}
	go m.run(d.Guest)
	return m, nil
}

func (d *Driver) mayStart(ctx context.Context, spec vmm.Spec) error {
	if d.Slow != nil {
		select {
		case <-ctx.Done():
		case <-d.Slow:
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.Fail != nil {
		if err := d.Fail(spec); err != nil {
			return err
		}
	}
	for _, path := range paths(spec) {
		if _, err := os.Stat(path); err != nil {
			return fault.New(fault.Storage, "", "%w", err)
		}
	}
	return nil
}

// paths lists the files of a spec; a fake machine may do without a kernel.
func paths(spec vmm.Spec) []string {
	var list []string
	for _, p := range []string{spec.Kernel, spec.Initrd} {
		if p != "" {
			list = append(list, p)
		}
	}
	for _, d := range spec.Drives {
		list = append(list, d.Path)
	}
	return list
}

type machine struct {
	guest *Guest
	ended chan struct{} // closed when the guest function has returned
	once  sync.Once     // closes guest.done

	mu       sync.Mutex
	latest   string // ID of the latest snapshot; empty: none
	prepared bool   // to be kept as it differs from that
	used     int64  // bytes of memory, as the guest says
	killed   bool
	err      error
}

func (m *machine) run(guest func(*Guest) error) {
	defer close(m.ended)
	err := guest(m.guest)
	m.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && !m.killed {
		m.err = fault.New(fault.Boot, "", "run virtual machine %s: %w", m.guest.Spec.Name, err)
	}
}

// end closes the link and tells the guest function.
func (m *machine) end() {
	m.once.Do(func() {
		g := m.guest
		g.mu.Lock()
		defer g.mu.Unlock()
		close(g.done)
		if g.open != nil {
			_ = g.open.Close()
		}
	})
}

// Link waits for the guest to open its port.
func (m *machine) Link(ctx context.Context) (net.Conn, error) {
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("virtual machine %s: %w", m.guest.Spec.Name, ctx.Err())
	case <-m.guest.done:
		return nil, fault.New(fault.Boot, "", "virtual machine %s: %w", m.guest.Spec.Name, errEnded)
	case conn := <-m.guest.links:
		return conn, nil
	}
}

// Share waits for the machine's end: fake guests mount nothing.
func (m *machine) Share(ctx context.Context) (net.Conn, error) {
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("virtual machine %s: %w", m.guest.Spec.Name, ctx.Err())
	case <-m.guest.done:
		return nil, fault.New(fault.Boot, "", "virtual machine %s: %w", m.guest.Spec.Name, errEnded)
	}
}

var errEnded = errors.New("the virtual machine has ended")

// Wait waits for the guest function to return.
func (m *machine) Wait() error {
	<-m.ended
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Kill ends the machine and waits for the guest function.
func (m *machine) Kill() error {
	m.mu.Lock()
	m.killed = true
	m.mu.Unlock()
	m.end()
	<-m.ended
	return nil
}

// Inform takes what the guest says of its memory.
func (m *machine) Inform(total, free int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used = total - free
}

// Memory tells it again.
func (m *machine) Memory(context.Context) (vmm.Memory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return vmm.Memory{Used: m.used}, nil
}

// Pid is this process: there is no other.
func (m *machine) Pid() int { return os.Getpid() }
