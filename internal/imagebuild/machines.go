package imagebuild

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/smolvm/smolvm/internal/cgroup"
	"github.com/smolvm/smolvm/internal/egress"
	"github.com/smolvm/smolvm/internal/event"
	"github.com/smolvm/smolvm/internal/process"
	"github.com/smolvm/smolvm/internal/record"
	"github.com/smolvm/smolvm/internal/sandbox"
	"github.com/smolvm/smolvm/internal/supervise"
	"github.com/smolvm/smolvm/internal/vmm"
	"github.com/smolvm/smolvm/internal/wire"
)

const (
	// readyTimeout bounds the boot of a build sandbox, which in bootstrap mode
	// extracts the whole base under emulation first: about half a minute on two cores.
	readyTimeout = 10 * time.Minute
	// stopGrace is how long a build sandbox may take to write everything to its disk.
	stopGrace = 2 * time.Minute
)

// Sandboxes are build sandboxes of the same kind as a user's.
type Sandboxes struct {
	Runner  *process.Runner // its own program is smolvm, the supervisor
	Accel   vmm.Accel
	CPUs    int // of a sandbox whose recipe names no number
	Sink    event.Sink
	Now     func() time.Time
	Rand    io.Reader
	Groups  cgroup.System
	Env     map[string]string // of every session: proxies
	Egress  egress.Policy     // what the sandboxes may reach
	CACerts []string          // PEM, one each; the guest keeps them out of the layer
	// Offline gives the sandbox no network: where this computer has none, installers
	// then fail at once instead of waiting for answers.
	Offline bool
}

// Open gives the sandboxes below a state folder of their own.
func (s Sandboxes) Open(home string) (Machines, error) {
	book, err := record.Open(home)
	if err != nil {
		return nil, err
	}
	manager := sandbox.New(sandbox.Options{
		Home: home, Book: book, Runner: s.Runner, Sink: s.Sink, Now: s.Now, Rand: s.Rand, Groups: s.Groups,
	})
	return machines{s, manager}, nil
}

type machines struct {
	Sandboxes
	manager *sandbox.Manager
}

// Clean removes every sandbox of the state folder, running or not.
func (m machines) Clean(ctx context.Context) error {
	names, err := m.manager.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.manager.Delete(ctx, name, sandbox.DeleteOptions{Force: true}); err != nil {
			return err
		}
	}
	return m.manager.Recover()
}

// Run boots a build sandbox, works in it and packs it.
func (m machines) Run(ctx context.Context, spec MachineSpec, work func(context.Context, Session) error, blank string) (err error) {
	if _, err := m.manager.Create(ctx, m.spec(spec)); err != nil {
		return err
	}
	defer func() {
		// Also after ctx has ended: nothing of the sandbox stays.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		err = errors.Join(err, m.Clean(ctx))
	}()
	if _, err := m.manager.Start(ctx, spec.Name, sandbox.StartOptions{Timeout: readyTimeout}); err != nil {
		return err
	}
	client, err := m.manager.Connect(ctx, spec.Name)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := guarded(ctx, session{client}, work); err != nil {
		return err
	}
	if err := m.manager.Stop(ctx, spec.Name, stopGrace); err != nil {
		return fmt.Errorf("stop the build sandbox: %w", err)
	}
	_, err = m.manager.Pack(ctx, spec.Name, blank)
	return err
}

// guardScript has the guest agent, process 1, switch the machine off when its input
// ends without a word: the builder was killed. Otherwise a sandbox that nobody waits for would go on until
// the next build removes it.
const guardScript = `trap '' HUP
read -r word || word=
test "$word" = done || kill -s TERM 1`

// guarded works in a sandbox that does not outlive this process by more than moments.
func guarded(ctx context.Context, s Session, work func(context.Context, Session) error) error {
	in, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		start := wire.Start{Argv: []string{"/bin/sh", "-c", guardScript}, Dir: "/", User: "root"}
		_, err := s.Exec(ctx, start, in, io.Discard, io.Discard)
		in.Close() // so that the word below does not wait for a reader
		ended <- err
	}()
	err := work(ctx, s)
	_, _ = io.WriteString(out, "done\n") // fails when the guard is gone, as the sandbox then is
	return errors.Join(err, <-ended)
}

func (m machines) spec(s MachineSpec) sandbox.Spec {
	image := s.Image
	image.CommandLine += fmt.Sprintf(" %s=%d", wire.OptEpoch, s.Epoch)
	return sandbox.Spec{
		Name: s.Name, Preset: "build", Agent: record.Agent{Name: "build", Version: "0"}, Launch: []string{"/bin/sh"},
		Image: image, Arch: s.Arch, VMM: "qemu", Accel: m.Accel, CPUs: cmp.Or(s.Resources.CPUs, m.CPUs),
		MemoryMiB: s.Resources.MemoryMiB, DiskBytes: s.Resources.DiskMiB << 20, Mode: s.Mode,
		Extra: s.Extra, ExtraReadOnly: s.Extra != "", Network: !m.Offline, Egress: m.Egress, Env: m.env(), CACerts: m.CACerts,
	}
}

// env is that of every session. Without a network npm is told not to try again,
// which it would for more than a minute; the other installers give up by themselves.
func (m machines) env() map[string]string {
	if !m.Offline {
		return m.Env
	}
	env := map[string]string{"npm_config_fetch_retries": "0"}
	maps.Copy(env, m.Env)
	return env
}

// session runs programs through a sandbox's supervisor.
type session struct{ client *supervise.Client }

// Exec runs a program to its end.
func (s session) Exec(ctx context.Context, start wire.Start, in io.Reader, out, errs io.Writer) (int, error) {
	return s.client.Exec(ctx, supervise.Command{Start: start}, supervise.Streams{In: in, Out: out, Err: errs})
}
