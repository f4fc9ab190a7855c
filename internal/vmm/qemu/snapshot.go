package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
)

var _ vmm.Snapshotter = (*machine)(nil)

// stateName is the file of a snapshot with memory and devices: QEMU's migration
// stream, in which pages of zeros take no room.
const stateName = "state"

// stateFile is the name by which QEMU knows the pipe that the stream goes through. Not
// the file itself: QEMU 9.1 and later write a stream only to pipes and sockets.
const stateFile = "snapshot"

// Bounds of writing or reading a snapshot, and of what has to be done after one that
// was ended.
const (
	snapshotTime = 5 * time.Minute
	plugTime     = 30 * time.Second
)

// unlimited is more bytes a second than any disk takes: QEMU's own limit, 128 MiB, is
// for networks that others use too.
const unlimited = 1 << 40

// keptMachine is what a restore has to know besides QEMU's own file. QEMU can read
// what another of its series wrote, with the same machine and processor.
type keptMachine struct {
	vmm.Kept
	Series  string `json:"series"`
	Machine string `json:"machine"`
	Accel   string `json:"accel"`
	CPU     string `json:"cpu"`
	SHA256  string `json:"sha256"` // of the state
}

// kept describes this machine.
func (m *machine) kept(sum string) keptMachine {
	p := m.plan
	return keptMachine{
		Kept: vmm.Keep(p.spec), Series: m.mon.series, Machine: p.machine, Accel: p.accel, CPU: p.cpu, SHA256: sum,
	}
}

// snapshot is one that a machine runs on from.
type snapshot struct {
	dir string
	keptMachine
}

// Restore starts a machine from a snapshot.
func (d *Driver) Restore(ctx context.Context, spec vmm.Spec, dir string) (vmm.Machine, error) {
	from := snapshot{dir: dir}
	err := vmm.ReadKept(dir, &from.keptMachine)
	if err == nil {
		err = from.Fits(spec)
	}
	if err != nil {
		return nil, unusable(spec.Name, dir, err)
	}
	return d.start(ctx, spec, &from)
}

func unusable(name, dir string, why error) error {
	return fault.New(fault.Conflict, "", "restore virtual machine %s: the snapshot in %s cannot be used: %w", name, dir, why)
}

// Pause halts the guest.
func (m *machine) Pause(ctx context.Context) error { return m.change(ctx, "stop", "pause") }

// Resume lets the guest go on.
func (m *machine) Resume(ctx context.Context) error { return m.change(ctx, "cont", "resume") }

func (m *machine) change(ctx context.Context, command, what string) error {
	if err := m.mon.execute(ctx, command, nil); err != nil {
		return fmt.Errorf("%s virtual machine %s: %w", what, m.plan.spec.Name, err)
	}
	return nil
}

// Snapshot keeps a paused machine in dir.
func (m *machine) Snapshot(ctx context.Context, dir string) error {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	if err := m.snapshot(ctx, dir); err != nil {
		return fmt.Errorf("snapshot virtual machine %s: %w", m.plan.spec.Name, errors.Join(err, vmm.RemoveKept(dir, stateName)))
	}
	return nil
}

// snapshot keeps the machine without its ports, which it gets anew: its own guest and
// every guest that is restored find their ports gone, with all that was said through
// them, and open those that come instead.
func (m *machine) snapshot(ctx context.Context, dir string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	status, err := m.status(ctx)
	if err != nil {
		return err
	}
	if status == "running" {
		return fault.New(fault.Conflict, "", "it runs: pause it first")
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), plugTime)
		defer cancel()
		err = errors.Join(err, m.plug(after))
	}()
	if err := m.unplug(ctx); err != nil {
		return err
	}
	sum, err := m.save(ctx, filepath.Join(dir, stateName))
	if err != nil {
		return err
	}
	return vmm.WriteKept(dir, m.kept(sum))
}

// unplug takes the ports away.
func (m *machine) unplug(ctx context.Context) error {
	for _, p := range portTable {
		if err := m.mon.executeWith(ctx, "device_del", map[string]any{"id": p.id}, nil); err != nil {
			return err
		}
	}
	return nil
}

// plug adds the ports that the machine does not have, with sockets of their own.
func (m *machine) plug(ctx context.Context) error {
	for _, p := range portTable {
		if m.has(ctx, p.id) {
			continue
		}
		if err := m.plugPort(ctx, p.id, p.name); err != nil {
			return fmt.Errorf("give it port %s: %w", p.id, err)
		}
	}
	return nil
}

// has tells whether the machine has a device.
func (m *machine) has(ctx context.Context, id string) bool {
	return m.mon.executeWith(ctx, "qom-get", map[string]any{"path": "/machine/peripheral/" + id, "property": "type"}, nil) == nil
}

// plugPort adds a port. Its socket has a name of its own: QEMU lets go of the one that
// a removed port had when it gets to it.
func (m *machine) plugPort(ctx context.Context, id, name string) error {
	ours, theirs, err := process.SocketPair(id)
	if err != nil {
		return err
	}
	m.plugged++
	socket := fmt.Sprintf("%s-%d", id, m.plugged)
	err = m.mon.giveFile(ctx, socket, theirs)
	_ = theirs.Close()
	if err == nil {
		address := map[string]any{"type": "fd", "data": map[string]any{"str": socket}}
		backend := map[string]any{"type": "socket", "data": map[string]any{"addr": address, "server": false}}
		err = m.mon.executeWith(ctx, "chardev-add", map[string]any{"id": socket, "backend": backend}, nil)
	}
	if err != nil {
		return errors.Join(err, ours.Close())
	}
	m.ports[id].connect(ours)
	return m.mon.executeWith(ctx, "device_add", map[string]any{"driver": portDevice, "id": id, "chardev": socket, "name": name}, nil)
}

// save writes the machine's state to a new file and returns its digest. When it
// returns without an error QEMU has come to rest: it closes its end of the pipe last.
func (m *machine) save(ctx context.Context, path string) (sum string, err error) {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fault.New(fault.Storage, "", "%w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	from, to, err := os.Pipe()
	if err != nil {
		return "", err
	}
	digest, written := sha256.New(), make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(out, digest), from)
		_ = from.Close() // QEMU shall not wait for somebody who has given up
		written <- err
	}()
	err = m.move(ctx, "migrate", to)
	_ = to.Close()
	if err != nil {
		_ = from.Close()
	}
	if failed := <-written; failed != nil && !errors.Is(failed, os.ErrClosed) {
		err = fault.New(fault.Storage, "", "write its memory: %w", failed)
	}
	return hex.EncodeToString(digest.Sum(nil)), err
}

// load fills a fresh QEMU with a snapshot and lets the guest go on.
func (m *machine) load(ctx context.Context, from *snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	if err := m.suits(from.keptMachine); err != nil {
		return unusable(m.plan.spec.Name, from.dir, err)
	}
	sum, err := m.fill(ctx, filepath.Join(from.dir, stateName))
	if err == nil && sum != from.SHA256 {
		err = unusable(m.plan.spec.Name, from.dir, errors.New("its memory is not what was kept"))
	}
	if err == nil {
		err = m.plug(ctx)
	}
	if err == nil {
		err = m.mon.execute(ctx, "cont", nil)
	}
	return err
}

// suits tells why this QEMU cannot read what was kept.
func (m *machine) suits(k keptMachine) error {
	want := m.kept(k.SHA256)
	switch {
	case k.Series != want.Series:
		return fmt.Errorf("it is of QEMU %s, this computer has %s", k.Series, want.Series)
	case k.Accel != want.Accel:
		return fmt.Errorf("it is of a machine that ran with %s, this one would with %s", k.Accel, want.Accel)
	case k.Machine != want.Machine, k.CPU != want.CPU:
		return fmt.Errorf("it is of another machine: %s with processor %s", k.Machine, k.CPU)
	}
	return nil
}

// openState opens the state of a snapshot, which somebody may have changed: QEMU says
// nothing of an empty one.
func openState(path string) (*os.File, error) {
	in, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fault.New(fault.Conflict, "", "the snapshot cannot be used: %w", err)
	}
	info, err := in.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		err = errors.New("its memory is not what was kept")
	}
	if err != nil {
		return nil, errors.Join(fault.New(fault.Conflict, "", "the snapshot cannot be used: %w", err), in.Close())
	}
	return in, nil
}

// fill reads the machine's state and returns the digest of what was read.
func (m *machine) fill(ctx context.Context, path string) (sum string, err error) {
	in, err := openState(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	from, to, err := os.Pipe()
	if err != nil {
		return "", err
	}
	digest, read := sha256.New(), make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(to, digest), in)
		_ = to.Close()
		read <- err
	}()
	err = m.move(ctx, "migrate-incoming", from)
	_ = from.Close()
	if err != nil {
		_ = to.Close()
	}
	if failed := <-read; err == nil {
		err = failed
	}
	return hex.EncodeToString(digest.Sum(nil)), err
}

// move lets QEMU write its state to a pipe, or read it from one, and waits until it
// has.
func (m *machine) move(ctx context.Context, command string, pipe *os.File) error {
	for _, set := range []struct {
		command   string
		arguments any
	}{
		{"migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}}},
		{"migrate-set-parameters", map[string]any{"max-bandwidth": unlimited}},
	} {
		if err := m.mon.executeWith(ctx, set.command, set.arguments, nil); err != nil {
			return err
		}
	}
	if err := m.mon.giveFile(ctx, stateFile, pipe); err != nil {
		return err
	}
	select {
	case <-m.moved: // of one before that nobody waited for
	default:
	}
	if err := m.mon.executeWith(ctx, command, map[string]any{"uri": "fd:" + stateFile}, nil); err != nil {
		return err
	}
	return m.awaitMove(ctx)
}

// noteMove handles QEMU's word on how a snapshot goes.
func (m *machine) noteMove(data json.RawMessage) {
	var move struct {
		Status string `json:"status"`
	}
	if json.Unmarshal(data, &move) != nil {
		return // not an event of QEMU's schema
	}
	switch move.Status {
	case "completed", "failed", "cancelled":
		select {
		case m.moved <- move.Status:
		default:
		}
	}
}

// awaitMove waits for the end of a snapshot's way. One that takes too long is ended.
func (m *machine) awaitMove(ctx context.Context) error {
	select {
	case status := <-m.moved:
		if status == "completed" {
			return nil
		}
		return fmt.Errorf("QEMU: %s", m.whyNotMoved(ctx, status))
	case <-m.mon.done:
		return m.mon.err
	case <-ctx.Done():
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), plugTime)
	defer cancel()
	err := m.mon.execute(after, "migrate_cancel", nil)
	select {
	case <-m.moved:
	case <-m.mon.done:
	case <-after.Done():
	}
	return errors.Join(ctx.Err(), err)
}

// whyNotMoved is QEMU's reason, where it gives one.
func (m *machine) whyNotMoved(ctx context.Context, status string) string {
	var answer struct {
		Reason string `json:"error-desc"`
	}
	if err := m.mon.execute(ctx, "query-migrate", &answer); err != nil || answer.Reason == "" {
		return status
	}
	return answer.Reason
}
