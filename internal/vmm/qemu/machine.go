package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
)

// ErrInternal is in the error of a machine that KVM could not go on running:
// the sign of a host whose /dev/kvm opens but runs no guest.
var ErrInternal = errors.New("KVM internal error")

// machine is one running QEMU.
type machine struct {
	plan    plan
	child   *process.Child
	tail    *process.Tail
	qmp     *net.UnixConn
	mon     *monitor
	ports   map[string]*port // by device
	card    *card            // nil: without a network card
	stopped chan struct{}    // QEMU said that the guest no longer runs
	moved   chan string      // how the last writing or reading of a snapshot ended, as QEMU says it

	keeping sync.Mutex // one snapshot at a time
	plugged int        // ports that it was given after its start; under keeping, but for those of a restore

	done chan struct{} // closed when QEMU has ended and err is set

	mu     sync.Mutex
	killed bool
	failed error // why the machine ended, where its process cannot tell
	err    error
}

// newMachine makes the machine of a plan with its ends of the sockets, and the files
// that QEMU inherits, which the caller closes once it was started.
func newMachine(p plan) (m *machine, children []*os.File, err error) {
	m = &machine{
		plan: p, tail: process.NewTail(nil), ports: newPorts(),
		stopped: make(chan struct{}, 1), moved: make(chan string, 1), done: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			m.hangUp()
			err = errors.Join(err, closeAll(children))
		}
	}()
	pair := func(name string) (ours *net.UnixConn, err error) {
		ours, theirs, err := process.SocketPair(name)
		if err == nil {
			children = append(children, theirs)
		}
		return ours, err
	}
	if m.qmp, err = pair("qmp"); err != nil {
		return nil, children, err
	}
	for _, port := range portTable {
		if p.from != nil {
			break // it gets them when it has its memory
		}
		conn, err := pair(port.id)
		if err != nil {
			return nil, children, err
		}
		m.ports[port.id].connect(conn)
	}
	m.card, err = newCard(p.spec.Network, pair)
	return m, children, err
}

// begin waits until QEMU answers and runs the machine, then watches it.
func (m *machine) begin(ctx context.Context) error {
	stop := context.AfterFunc(ctx, m.child.Kill) // also ends the QMP connection
	defer stop()
	mon, err := openMonitor(m.qmp, m.event)
	if err != nil {
		return err
	}
	m.mon = mon
	if err := mon.execute(ctx, "qmp_capabilities", nil); err != nil {
		return err
	}
	if m.plan.from != nil {
		if err := m.load(ctx, m.plan.from); err != nil {
			return err
		}
	}
	// Answered by the main loop only: by then all devices are set up.
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	if status != "running" {
		return fmt.Errorf("the machine is %s instead of running", status)
	}
	if !stop() {
		return ctx.Err()
	}
	go m.watch()
	return nil
}

// abandon ends a machine whose begin failed.
func (m *machine) abandon() {
	m.child.Kill()
	m.hangUp()
}

// hangUp closes all sockets, which ends all sessions and the network: QEMU is gone.
func (m *machine) hangUp() {
	if m.qmp != nil {
		_ = m.qmp.Close()
	}
	if m.mon != nil {
		<-m.mon.done
	}
	for _, p := range m.ports {
		p.close()
	}
	m.card.hangUp()
}

func (m *machine) status(ctx context.Context) (string, error) {
	var answer struct {
		Status string `json:"status"`
	}
	err := m.mon.execute(ctx, "query-status", &answer)
	return answer.Status, err
}

// event handles one QMP event; it runs in the monitor's goroutine.
func (m *machine) event(name string, data json.RawMessage) {
	switch name {
	case "VSERPORT_CHANGE":
		var change struct {
			Open bool   `json:"open"`
			ID   string `json:"id"`
		}
		if json.Unmarshal(data, &change) != nil {
			return // not an event of QEMU's schema
		}
		switch p := m.ports[change.ID]; {
		case p == nil: // not one of ours
		case change.Open:
			p.open()
		default:
			p.hangUp()
		}
	case "RESET": // a guest reboot, also when a port's event is held back
		for _, p := range m.ports {
			p.hangUp()
		}
	case "SHUTDOWN":
		var why struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(data, &why) == nil && why.Reason == "host-signal" {
			m.fail(errSignal) // QEMU ends as well as after a power-off
		}
	case "STOP":
		select {
		case m.stopped <- struct{}{}:
		default:
		}
	case "MIGRATION":
		m.noteMove(data)
	}
}

// watch owns the machine until QEMU has ended.
func (m *machine) watch() {
	defer close(m.done)
	for running := true; running; {
		select {
		case <-m.child.Done():
			running = false
		case <-m.stopped:
			m.examine()
		}
	}
	m.hangUp()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = m.verdict(m.child.Wait())
}

// examine ends a machine that QEMU has halted for good: it would wait for ever
// for somebody to debug it.
func (m *machine) examine() {
	status, err := m.status(context.Background())
	if err != nil {
		return // QEMU is ending
	}
	switch status {
	case "internal-error":
		err = ErrInternal
	case "io-error", "guest-panicked", "watchdog":
		err = fmt.Errorf("QEMU halted the guest: %s", status)
	default:
		return
	}
	m.fail(err)
	m.child.Kill()
}

// errSignal is the reason of a machine ended by SIGTERM, SIGINT or SIGHUP.
var errSignal = errors.New("QEMU was ended by a signal")

func (m *machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = err
}

// verdict says what QEMU's end means; m.mu is held.
func (m *machine) verdict(exit error) error {
	said := m.tail.String()
	if said != "" {
		said = ": " + said
	}
	switch {
	case m.failed != nil && errors.Is(m.failed, ErrInternal):
		return fault.New(fault.Host, "This computer's KVM cannot run a guest; use emulation.",
			"run virtual machine %s: %w%s", m.plan.spec.Name, m.failed, said)
	case m.failed != nil:
		return fault.New(fault.Boot, "", "run virtual machine %s: %w%s", m.plan.spec.Name, m.failed, said)
	case m.killed || exit == nil:
		return nil
	}
	return fault.New(fault.Boot, "", "run virtual machine %s: QEMU ended: %w%s", m.plan.spec.Name, exit, said)
}

// Link waits for the guest to open its port.
func (m *machine) Link(ctx context.Context) (net.Conn, error) { return m.session(ctx, linkID) }

// Share waits for the guest to open its port for mounts.
func (m *machine) Share(ctx context.Context) (net.Conn, error) { return m.session(ctx, shareID) }

func (m *machine) session(ctx context.Context, id string) (net.Conn, error) {
	conn, err := m.ports[id].link(ctx)
	if err != nil {
		return nil, fmt.Errorf("virtual machine %s: %w", m.plan.spec.Name, err)
	}
	return conn, nil
}

// Wait waits for QEMU's end.
func (m *machine) Wait() error {
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Kill ends QEMU.
func (m *machine) Kill() error {
	m.mu.Lock()
	m.killed = true
	m.mu.Unlock()
	m.child.Kill()
	<-m.done
	return nil
}

// GrowDrive tells the guest that a drive is as large as its file is now.
func (m *machine) GrowDrive(ctx context.Context, id string, size int64) error {
	arguments := map[string]any{"node-name": id, "size": size}
	if err := m.mon.executeWith(ctx, "block_resize", arguments, nil); err != nil {
		return fmt.Errorf("virtual machine %s: grow drive %s: %w", m.plan.spec.Name, id, err)
	}
	return nil
}

// Pid is QEMU's process id.
func (m *machine) Pid() int { return m.child.Pid() }

// lossless takes all the guest writes, whatever the writer behind it says: a
// pipe nobody empties would stop the guest at its next console message.
type lossless struct{ to io.Writer }

// Write passes p on and never fails.
func (l lossless) Write(p []byte) (int, error) {
	_, _ = l.to.Write(p)
	return len(p), nil
}
