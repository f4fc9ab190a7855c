package cli

import (
	"cmp"
	"context"
	"path/filepath"
	"sync"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/forward"
	"github.com/smolvm/smolvm/internal/host"
	"github.com/smolvm/smolvm/internal/port"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
)

// openRooms gives the real rooms. Each is opened when it is first asked for.
func (a *App) openRooms() *rooms {
	return &rooms{
		Config:     sync.OnceValues(a.loadConfig),
		AllPresets: sync.OnceValues(a.allPresets),
		Sandboxes:  sync.OnceValues(a.openSandboxes),
		Catalogue:  a.loadCatalogue,
		Pull:       a.pull,
		BuildHere:  a.buildHere,
		Built:      a.builtHere,
		Intact:     a.intact,
		Cached:     a.cached,
		Verify:     a.verify,
		Lookup:     a.lookup,
		Save:       a.save,
		Load:       a.load,
		Mirror:     a.mirror,
		Prune:      a.pruneStore,
		Remove:     a.removeImages,
		Current:    a.current,
		SeenLast:   sync.OnceValue(a.seenLast),
		AskNewer:   a.lookForNewer,
		OnDisk:     a.onDisk,
		Machine:    a.chooseMachine,
		Able:       a.ableToRun,
		Sound:      a.soundVMM,
		Accel:      a.chooseAccel,
		Program:    a.programOf,
		Host:       sync.OnceValue(host.Probe),
		KVM:        func(ctx context.Context, o host.KVMOptions) (host.Verdict, error) { return a.Host().KVM(ctx, o) },
		PortFree:   func(ctx context.Context, f port.Forward) error { return forward.Explain(f, forward.Try(ctx, f)) },
		Facts:      a.facts,
	}
}

// openSandboxes opens the sandboxes of the state folder, and removes what
// interrupted starts left there.
func (a *App) openSandboxes() (sandboxes, error) {
	c, err := a.Config()
	if err != nil {
		return nil, err
	}
	book, err := record.Open(c.Home)
	if err != nil {
		return nil, err
	}
	m := sandbox.New(sandbox.Options{
		Home: c.Home, Book: book, Runner: a.runner(), Sink: a.Progress(), Now: a.Now, Rand: a.Rand, Groups: cgroup.Here(),
	})
	if err := m.Recover(); err != nil {
		a.Streams.Say("smolvm: what an interrupted start left stays for now: %v", err)
	}
	keep := func() { a.keepSSHConfig(book, c) }
	keep() // the state folder, or this program, may have been moved
	return manager{m, keep}, nil
}

// runner prepares the programs that SmolVM runs.
func (a *App) runner() *process.Runner {
	o := process.Options{Environ: a.Environ, Self: a.Self}
	if c, err := a.Config(); err == nil { // else the command says what is wrong with it
		o.Folders = []string{filepath.Join(c.Home, "bin")}
		o.Places = map[process.Tool]string{process.Firecracker: cmp.Or(a.global.Firecracker, c.Firecracker)}
	}
	return process.New(o)
}

// manager is the sandbox room as the commands see it.
type manager struct {
	*sandbox.Manager
	named func() // after what changes the names that there are
}

// Create makes a sandbox.
func (m manager) Create(ctx context.Context, spec sandbox.Spec) (record.Record, error) {
	defer m.named()
	return m.Manager.Create(ctx, spec)
}

// Fork makes sandboxes of a running one.
func (m manager) Fork(ctx context.Context, from string, f sandbox.Fork) ([]record.Record, error) {
	defer m.named()
	return m.Manager.Fork(ctx, from, f)
}

// Restore makes a sandbox of a snapshot.
func (m manager) Restore(ctx context.Context, snapshot string, f sandbox.Fork) (record.Record, error) {
	defer m.named()
	return m.Manager.Restore(ctx, snapshot, f)
}

// Start starts a sandbox, which is gone when its first start failed.
func (m manager) Start(ctx context.Context, name string, options sandbox.StartOptions) (record.Record, error) {
	defer m.named()
	return m.Manager.Start(ctx, name, options)
}

// Rename gives a sandbox another name.
func (m manager) Rename(ctx context.Context, from, to string) error {
	defer m.named()
	return m.Manager.Rename(ctx, from, to)
}

// Connect connects to the supervisor of a running sandbox.
func (m manager) Connect(ctx context.Context, name string) (session, error) {
	client, err := m.Manager.Connect(ctx, name)
	if err != nil {
		return nil, err
	}
	return client, nil
}

// Delete removes a sandbox. One that runs is switched off: its disk goes anyway.
func (m manager) Delete(ctx context.Context, name string) error {
	defer m.named()
	return m.Manager.Delete(ctx, name, sandbox.DeleteOptions{Force: true})
}
