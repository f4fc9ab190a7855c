package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/smolvm/smolvm/internal/cage"
	"github.com/smolvm/smolvm/internal/fault"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

// ErrInternal is in the error of a machine that KVM could not go on running: the
// sign of a host whose /dev/kvm opens but runs no guest.
var ErrInternal = errors.New("KVM internal error")

// tokenBytes is the length of a boot's token before it is written in hexadecimal.
const tokenBytes = 16

// machine is one sandbox's machine: one Firecracker after another, as each ends when
// its guest reboots.
type machine struct {
	driver *Driver
	spec   vmm.Spec
	binary string
	dir    string // vm in the run folder; /run in the cage
	root   string // over which the cage is built
	token  string
	from   string // folder of the snapshot that the first Firecracker is filled with; empty: none
	origin string // that snapshot's ID

	card    *card // the host's end of the network card; nil: none
	door    *door // where the guest connects
	log     *lines
	metrics *lines
	done    chan struct{} // closed when the machine has ended and err is set

	mu     sync.Mutex
	child  *process.Child
	tail   *process.Tail
	api    *client
	line   lineage
	told   memoryUse // by the guest; its balloon is not set
	killed bool
	err    error
}

var _ vmm.Confined = (*machine)(nil)

// Confinement is always a cage: there is no Firecracker without.
func (m *machine) Confinement() (caged bool, why error) { return true, nil }

func tokenOption(token string) string { return wire.OptVsock + "=" + token }

// newMachine makes all that outlives a reboot of the guest.
func (d *Driver) newMachine(spec vmm.Spec, binary, from string, k keptMachine) (_ *machine, err error) {
	m := &machine{driver: d, spec: spec, binary: binary, from: from, origin: k.ID, token: k.Token, done: make(chan struct{})}
	if m.dir, err = makeFolder(spec.RunDir); err != nil {
		return nil, err
	}
	if spec.Network {
		m.card = newCard()
	}
	m.root = filepath.Join(spec.RunDir, "root")
	err = os.Mkdir(m.root, 0o700)
	if err == nil {
		m.log, err = drain(filepath.Join(m.dir, logName), maxLogLine)
	}
	if err == nil {
		m.metrics, err = drain(filepath.Join(m.dir, metricsName), maxMetrics)
	}
	if err == nil {
		m.door, err = openDoor(filepath.Join(m.dir, fmt.Sprintf("%s_%d", vsockName, wire.VsockPort)), m.token)
	}
	if err != nil {
		m.clean()
		return nil, fault.New(fault.Storage, "", "prepare Firecracker's sockets: %w", err)
	}
	return m, nil
}

// begin starts the first Firecracker and what watches it.
func (m *machine) begin(ctx context.Context) error {
	if err := m.launch(ctx); err != nil {
		return err
	}
	life, end := context.WithCancel(context.Background())
	var balloon sync.WaitGroup
	balloon.Go(func() { m.breathe(life) })
	go func() {
		m.watch()
		end()
		balloon.Wait()
		close(m.done)
	}()
	return nil
}

// abandon removes what is left of a start that failed.
func (m *machine) abandon() {
	m.mu.Lock()
	child := m.child
	m.mu.Unlock()
	if child != nil {
		child.Kill()
	}
	m.clean()
}

// clean ends everything but Firecracker, which is gone.
func (m *machine) clean() {
	if m.api != nil {
		m.api.close()
	}
	if m.door != nil {
		m.door.close()
	}
	if m.card != nil {
		_ = m.card.Close()
	}
	for _, l := range []*lines{m.log, m.metrics} {
		if l != nil {
			l.close()
		}
	}
	_ = os.RemoveAll(m.dir) // what is left is the run folder's, whose owner removes it
	_ = os.Remove(m.root)
}

// launch starts one Firecracker, configures it and starts its guest.
func (m *machine) launch(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.sweep(); err != nil {
		return err
	}
	m.log.begin()
	m.metrics.begin()
	m.door.expect()
	handout, err := cage.NewHandout()
	if err != nil {
		return err
	}
	defer handout.Close()
	child, tail, err := m.spawn(handout)
	if err != nil {
		return err
	}
	api := newClient(filepath.Join(m.dir, apiName))
	m.mu.Lock()
	if m.api != nil {
		m.api.close()
	}
	m.child, m.tail, m.api, m.line, m.told = child, tail, api, lineage{}, memoryUse{}
	killed := m.killed
	m.mu.Unlock()
	if killed {
		child.Kill()
		return errKilled
	}
	if err = m.connect(ctx, handout); err == nil {
		err = m.configure(ctx, child, api)
	}
	if err != nil {
		child.Kill()
		return m.explain(ctx, err)
	}
	return nil
}

// connect takes the other end of the tap, which the stage makes before Firecracker
// runs.
func (m *machine) connect(ctx context.Context, handout *cage.Handout) error {
	if m.card == nil {
		return nil
	}
	far, err := handout.Take(ctx)
	if err == nil {
		m.card.attach(far)
	}
	return err
}

// sweep removes what an earlier Firecracker left: a socket that is there is an error,
// a copy of its memory is for nobody.
func (m *machine) sweep() error {
	for _, name := range []string{apiName, vsockName, memoryName} {
		if err := os.Remove(filepath.Join(m.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fault.New(fault.Storage, "", "remove what the last run left: %w", err)
		}
	}
	return nil
}

var errKilled = errors.New("it was ended")

// spawn starts the process in its cage.
func (m *machine) spawn(handout *cage.Handout) (*process.Child, *process.Tail, error) {
	// Not a start's context: it ends the start, not the machine.
	cmd, err := cage.Command(context.Background(), m.driver.runner, m.cagePlan())
	if err != nil {
		return nil, nil, err
	}
	defer cmd.ExtraFiles[0].Close()
	handout.Give(cmd)
	tail := process.NewTail(nil)
	cmd.Stdout, cmd.Stderr = lossless{m.spec.Console}, tail // the serial port is its standard output in every version
	process.InGroup(cmd, m.spec.Group)
	child, err := process.StartBound(cmd)
	handout.Started()
	if err != nil {
		return nil, nil, cage.Forbidden(os.DirFS("/"), m.driver.runner.SelfPath(), err)
	}
	return child, tail, nil
}

// configure waits for the API, says what the machine is, and starts it.
func (m *machine) configure(ctx context.Context, child *process.Child, api *client) error {
	stop := context.AfterFunc(ctx, child.Kill) // also ends the API's connections
	defer stop()
	select {
	case <-m.log.ready:
	case <-child.Done():
		return errors.New("it ended at once")
	case <-ctx.Done():
		return ctx.Err()
	}
	fill := m.boot
	if m.from != "" {
		fill = m.load
	}
	if err := fill(ctx, api); err != nil {
		return err
	}
	if !stop() {
		return ctx.Err()
	}
	return nil
}

// boot says what the machine is, and starts it.
func (m *machine) boot(ctx context.Context, api *client) error {
	for _, s := range m.settings() {
		if err := api.put(ctx, s.path, s.object, s.body); err != nil {
			return err
		}
	}
	return api.put(ctx, "/actions", "the start", action{startInstance})
}

// explain says why Firecracker did not come up, in its own words where it has any.
func (m *machine) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	said := m.said()
	if cage.Failed(m.child.Wait(), said) {
		return cage.Forbidden(os.DirFS("/"), m.driver.runner.SelfPath(), errors.New(said))
	}
	if said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return fault.New(fault.Host, hintFor(err.Error()), "Firecracker did not come up: %w", err)
}

// said is what Firecracker wrote besides its guest's console.
func (m *machine) said() string {
	return strings.TrimSpace(m.log.settle() + "\n" + m.tail.String())
}

// watch owns the machine until its last Firecracker has ended.
func (m *machine) watch() {
	for {
		m.mu.Lock()
		child := m.child
		m.mu.Unlock()
		<-child.Done()
		if m.card != nil {
			m.card.attach(nil)
		}
		err := m.verdict(child.Wait())
		if errors.Is(err, errReboot) {
			m.from = "" // a guest that reboots boots
			if err = m.launch(context.Background()); err == nil {
				continue
			}
		}
		m.mu.Lock()
		if m.killed {
			err = nil
		}
		m.err = err
		m.mu.Unlock()
		m.clean()
		return
	}
}

// errReboot says that the guest wants to start again.
var errReboot = errors.New("the guest reboots")

// verdict says what an end of Firecracker means. Its exit status tells nothing: a
// guest that KVM cannot run has been seen to end with 0 and with 1. What the guest
// said before, the log and the count of failed processors do.
func (m *machine) verdict(exit error) error {
	m.mu.Lock()
	killed := m.killed
	m.mu.Unlock()
	said, farewell := m.said(), m.door.farewell()
	m.metrics.settle()
	switch {
	case killed:
		return nil
	case farewell == wire.ForReboot:
		return errReboot
	case farewell == wire.ForPowerOff:
		return nil
	case m.log.internal || m.metrics.failures > 0:
		return fault.New(fault.Host, "This computer's KVM cannot run a guest; use --backend qemu, which emulates.",
			"run virtual machine %s: %w: %s", m.spec.Name, ErrInternal, said)
	case exit != nil:
		return fault.New(fault.Boot, "", "run virtual machine %s: Firecracker ended: %w: %s", m.spec.Name, exit, said)
	}
	return fault.New(fault.Boot, "", "run virtual machine %s: the guest reset without a word, as after a kernel panic: %s", m.spec.Name, said)
}

// Link waits for the guest to connect.
func (m *machine) Link(ctx context.Context) (net.Conn, error) { return m.session(ctx, wire.ForLink) }

// Share waits for the guest to connect for its mounts.
func (m *machine) Share(ctx context.Context) (net.Conn, error) { return m.session(ctx, wire.ForShare) }

func (m *machine) session(ctx context.Context, purpose wire.Purpose) (net.Conn, error) {
	conn, err := m.door.wait(ctx, purpose)
	if err != nil {
		return nil, fmt.Errorf("virtual machine %s: %w", m.spec.Name, err)
	}
	return conn, nil
}

// Wait waits for the machine's end.
func (m *machine) Wait() error {
	<-m.done
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Kill ends Firecracker.
func (m *machine) Kill() error {
	m.mu.Lock()
	m.killed = true
	child := m.child
	m.mu.Unlock()
	child.Kill()
	<-m.done
	return nil
}

// Pid is Firecracker's process id; another one after each reboot of the guest.
func (m *machine) Pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.child.Pid()
}

// lossless takes all the guest writes, whatever the writer behind it says: a full
// pipe would stop the guest at its next console message.
type lossless struct{ to io.Writer }

// Write passes p on and never fails.
func (l lossless) Write(p []byte) (int, error) {
	_, _ = l.to.Write(p)
	return len(p), nil
}

// GrowDrive tells the guest that a drive is as large as its file is now.
func (m *machine) GrowDrive(ctx context.Context, id string, _ int64) error {
	return m.client().patch(ctx, "/drives/"+driveID(id), "drive "+id, driveUpdate{ID: driveID(id), Path: drivesAt + "/" + id})
}
